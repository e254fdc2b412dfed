//! Calls between special tokens: a section, and in it the name and arguments of each call (DeepSeek, Kimi).

use super::marks::{Found, find};
use super::syntax::CallSyntax;
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
        let marks = [section.separator, section.end, section.close, section.open, section.begin];
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.raw.push_str(&text);
        let header = self.raw.rfind(section.begin).map_or(0, |at| at + section.begin.len());
        let header = self.raw[header..].trim().to_owned();
        match mark {
            _ if header.len() > MAX_NAME => {
                self.back(mark.map(|at| marks[at]));
                self.give_up();
            }
            Some(0) => {
                self.raw.push_str(section.separator);
                match self.syntax.calls {
                    Some(CallSyntax::DeepSeekV3) => self.state = State::Name,
                    Some(CallSyntax::Kimi) => {
                        let name = header.strip_prefix("functions.").unwrap_or(&header);
                        let name = name.rsplit_once(':').map_or(name, |(name, _)| name).to_owned();
                        self.begin(&name, Some(header), State::Arguments { fenced: false });
                    }
                    _ => self.begin(&header, None, State::Arguments { fenced: false }),
                }
            }
            Some(at) => {
                self.back(Some(marks[at]));
                self.give_up();
            }
            None => {}
        }
        progress
    }

    /// Puts a mark back to be read again.
    fn back(&mut self, mark: Option<&str>) {
        self.buffer.insert_str(0, mark.unwrap_or_default());
    }

    /// A name on a line of its own.
    pub(super) fn name(&mut self, end: bool) -> bool {
        let (Some(section), _) = self.marks() else { return false };
        let marks = ["\n", section.end, section.close, section.open, section.begin];
        let Found { text, mark } = find(&mut self.buffer, &marks, end);
        let progress = !text.is_empty() || mark.is_some();
        self.raw.push_str(&text);
        let start = self.raw.rfind(section.separator).map_or(0, |at| at + section.separator.len());
        let name = self.raw[start..].trim().to_owned();
        match mark {
            _ if name.len() > MAX_NAME => {
                self.back(mark.map(|at| marks[at]));
                self.give_up();
            }
            Some(0) => {
                self.raw.push('\n');
                self.begin(&name, None, State::Fence);
            }
            Some(at) => {
                self.back(Some(marks[at]));
                self.give_up();
            }
            None => {}
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
