//! Calls between special tokens: a section, and in it the name and arguments of each call (DeepSeek, Kimi).

use super::marks::{Found, find};
use super::syntax::{CallSyntax, Section};
use super::{MAX_NAME, OutputParser, State};

impl OutputParser {
    pub(super) fn section(&mut self, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let space = self.buffer.len() - self.buffer.trim_start().len();
        if !self.raw.is_empty() {
            self.raw.push_str(&self.buffer[..space]);
        }
        self.buffer.drain(..space);
        match (self.begins_with(section.begin, end), self.begins_with(section.close, end)) {
            (Some(true), _) => {
                self.raw.push_str(section.begin);
                self.buffer.drain(..section.begin.len());
                self.state = State::Header;
            }
            (_, Some(true)) if self.raw.is_empty() => {
                self.buffer.drain(..section.close.len());
                self.state = State::Lead;
            }
            (Some(false), Some(_)) | (Some(_), Some(false)) if !self.buffer.is_empty() => self.give_up(),
            _ => return false,
        }
        true
    }

    /// The text before the separator: the name of the call, or its kind.
    pub(super) fn header(&mut self, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let (progress, header) = self.between(section.begin, section.separator, section, end);
        let Some(header) = header else { return progress };
        match self.syntax.calls {
            Some(CallSyntax::DeepSeekV3) => self.state = State::Name,
            Some(CallSyntax::Kimi) => {
                let name = header.strip_prefix("functions.").unwrap_or(&header);
                let name = name.rsplit_once(':').map_or(name, |(name, _)| name).to_owned();
                self.begin(&name, Some(header), State::Arguments { fenced: false });
            }
            _ => self.begin(&header, None, State::Arguments { fenced: false }),
        }
        progress
    }

    /// Reads on to the mark `until`. Tells whether anything was read, and gives the text since the mark `after` once it is
    /// whole. If it is too long, or if another mark of the section comes, the call becomes text.
    fn between(&mut self, after: &str, until: &str, section: Section, end: bool) -> (bool, Option<String>) {
        let marks = [until, section.end, section.close, section.open, section.begin];
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.raw.push_str(&text);
        let start = self.raw.rfind(after).map_or(0, |at| at + after.len());
        let read = self.raw[start..].trim().to_owned();
        match mark {
            Some(0) if read.len() <= MAX_NAME => {
                self.raw.push_str(until);
                return (progress, Some(read));
            }
            None if read.len() <= MAX_NAME => {}
            mark => {
                // The mark is read again.
                self.buffer.insert_str(0, mark.map_or("", |at| marks[at]));
                self.give_up();
            }
        }
        (progress, None)
    }

    /// A name on a line of its own.
    pub(super) fn name(&mut self, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let (progress, name) = self.between(section.separator, "\n", section, end);
        if let Some(name) = name {
            self.begin(&name, None, State::Fence);
        }
        progress
    }

    pub(super) fn fence(&mut self, end: bool) -> bool {
        const FENCE: &str = "```json\n";
        self.skip_space();
        match self.begins_with(FENCE, end) {
            None => return false,
            Some(fenced) => {
                if fenced {
                    self.buffer.drain(..FENCE.len());
                }
                self.state = State::Arguments { fenced };
            }
        }
        true
    }

    /// The arguments of a call up to its end.
    pub(super) fn body(&mut self, fenced: bool, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let marks = [section.end, section.close];
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.held.push_str(&text);
        if !self.argued {
            let space = self.held.len() - self.held.trim_start().len();
            self.held.drain(..space);
        }
        // A fence and white space at the end are not part of them.
        let certain = self.held.trim_end_matches(|c: char| c.is_whitespace() || (fenced && c == '`')).len();
        let certain: String = self.held.drain(..certain).collect();
        self.arguments(&certain);
        if let Some(at) = mark {
            self.end_arguments(fenced);
            self.state = if at == 0 { State::Section } else { State::Lead };
        }
        progress
    }

    pub(super) fn end_arguments(&mut self, fenced: bool) {
        let held = std::mem::take(&mut self.held);
        let mut rest = held.trim_end();
        if fenced {
            rest = rest.strip_suffix("```").unwrap_or(rest).trim_end();
        }
        self.arguments(rest);
        self.no_arguments();
    }
}
