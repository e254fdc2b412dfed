//! Instructions that a program can verify, such as "in at least 300 words" (IFEval, arXiv 2311.07911).
//!
//! A document has `instruction_id_list` and, for each, `kwargs`. The check of each instruction is that of
//! lm-evaluation-harness, strict. There are three exceptions. `language:response_language` needs a recogniser of languages
//! and is refused. `english_capital` and `english_lowercase` check only the case. Sentences and words in capitals are
//! counted by simple rules and not by NLTK.

use serde_json::Value;

use super::{Case, Checker};
use crate::error::{Result, TaskError};
use crate::pattern::Pattern;
use crate::task::keys::Keys;

/// Says whether an answer follows all of a document's instructions, or which share of them.
pub(super) struct InstructionChecker {
    share: bool,
}

impl InstructionChecker {
    pub(super) fn read(keys: &mut Keys) -> Result<Self> {
        Ok(Self { share: keys.bool("share")?.unwrap_or(false) })
    }
}

impl Checker for InstructionChecker {
    fn check(&self, cases: &[Case]) -> Result<Vec<f64>> {
        let value = |case: &Case| {
            let followed = followed(case.document, case.answer).map_err(|problem| TaskError::Checker {
                command: "instructions".to_owned(),
                problem: format!("of `{}`: {problem}", case.id),
            })?;
            let count = followed.iter().filter(|f| **f).count() as f64;
            let share = count / followed.len().max(1) as f64;
            Ok(if self.share { share } else { share.floor() })
        };
        cases.iter().map(value).collect()
    }
}

/// Which of a document's instructions an answer follows. The error says which part of the document is wrong.
pub fn followed(document: &Value, answer: &str) -> Result<Vec<bool>, String> {
    let ids = document.get("instruction_id_list").and_then(Value::as_array);
    let ids = ids.ok_or("the document has no list `instruction_id_list`")?;
    if ids.is_empty() {
        return Err("`instruction_id_list` is empty".to_owned());
    }
    let kwargs = document.get("kwargs").and_then(Value::as_array).ok_or("the document has no list `kwargs`")?;
    let prompt = document.get("prompt").and_then(Value::as_str).unwrap_or_default();
    let one = |(at, id): (usize, &Value)| {
        let id = id.as_str().ok_or("an instruction's id is not text")?;
        let options = Options { id, values: kwargs.get(at).unwrap_or(&Value::Null), prompt };
        let follows = options.follows(answer)?;
        Ok(follows && !answer.trim().is_empty())
    };
    ids.iter().enumerate().map(one).collect()
}

/// An instruction.
struct Options<'a> {
    id: &'a str,
    values: &'a Value,
    prompt: &'a str,
}

impl Options<'_> {
    fn text(&self, key: &str) -> Result<&str, String> {
        self.values.get(key).and_then(Value::as_str).ok_or_else(|| format!("`{}` needs the text `{key}`", self.id))
    }

    fn number(&self, key: &str) -> Result<usize, String> {
        let value = self.values.get(key);
        // Files made by pandas have 3.0 for 3.
        let number = value.and_then(|v| v.as_u64().or_else(|| v.as_f64().map(|f| f as u64)));
        number.map(|n| n as usize).ok_or_else(|| format!("`{}` needs the number `{key}`", self.id))
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>, String> {
        let list = self.values.get(key).and_then(Value::as_array);
        let list = list.map(|items| items.iter().filter_map(Value::as_str).collect());
        list.ok_or_else(|| format!("`{}` needs the list `{key}`", self.id))
    }

    /// Compares a count with `less than` or `at least`.
    fn compare(&self, count: usize, limit: &str, relation: &str) -> Result<bool, String> {
        let limit = self.number(limit)?;
        match self.text(relation)? {
            "less than" => Ok(count < limit),
            "at least" => Ok(count >= limit),
            other => Err(format!("`{}` knows `less than` and `at least`, not `{other}`", self.id)),
        }
    }

    fn follows(&self, answer: &str) -> Result<bool, String> {
        let pattern = |text: &str| Pattern::new(text);
        let count = |text: &str| Ok::<_, String>(pattern(text)?.find_all(answer).len());
        match self.id {
            "keywords:existence" => {
                let all = self.texts("keywords")?.into_iter().map(|word| Ok(count(&format!("(?i){word}"))? > 0));
                Ok(all.collect::<Result<Vec<bool>, String>>()?.into_iter().all(|found| found))
            }
            "keywords:frequency" => {
                self.compare(count(&format!("(?i){}", self.text("keyword")?.trim()))?, "frequency", "relation")
            }
            "keywords:forbidden_words" => {
                let all = self.texts("forbidden_words")?.into_iter().map(|w| Ok(count(&format!(r"(?i)\b{w}\b"))? > 0));
                Ok(all.collect::<Result<Vec<bool>, String>>()?.into_iter().all(|found| !found))
            }
            "keywords:letter_frequency" => {
                let letter = self.text("letter")?.to_lowercase();
                let times = answer.to_lowercase().matches(&letter).count();
                self.compare(times, "let_frequency", "let_relation")
            }
            "length_constraints:number_words" => self.compare(count(r"\w+")?, "num_words", "relation"),
            "length_constraints:number_sentences" => self.compare(sentences(answer), "num_sentences", "relation"),
            "length_constraints:number_paragraphs" => {
                let parts = split(r"\s?\*\*\*\s?", answer)?;
                let inner = parts.get(1..parts.len() - 1).unwrap_or_default();
                let full = parts.iter().filter(|part| !part.trim().is_empty()).count();
                Ok(inner.iter().all(|part| !part.trim().is_empty()) && full == self.number("num_paragraphs")?)
            }
            "length_constraints:nth_paragraph_first_word" => self.first_word(answer),
            "detectable_content:number_placeholders" => Ok(count(r"\[.*?\]")? >= self.number("num_placeholders")?),
            "detectable_content:postscript" => {
                let marker = match self.text("postscript_marker")?.trim() {
                    "P.P.S" => r"\s*p\.\s?p\.\s?s.*$".to_owned(),
                    "P.S." => r"\s*p\.\s?s\..*$".to_owned(),
                    other => format!(r"\s*{}.*$", other.to_lowercase()),
                };
                Ok(!pattern(&format!("(?m){marker}"))?.find_all(&answer.to_lowercase()).is_empty())
            }
            "detectable_format:number_bullet_lists" => {
                let bullets = count(r"(?m)^\s*\*[^\*].*$")? + count(r"(?m)^\s*-.*$")?;
                Ok(bullets == self.number("num_bullets")?)
            }
            "detectable_format:constrained_response" => {
                let options = ["My answer is yes.", "My answer is no.", "My answer is maybe."];
                Ok(options.iter().any(|option| answer.contains(option)))
            }
            "detectable_format:number_highlighted_sections" => {
                let single = pattern(r"\*[^\n\*]*\*")?.find_all(answer).into_iter().flatten();
                let double = pattern(r"\*\*[^\n\*]*\*\*")?.find_all(answer).into_iter().flatten();
                let full = |text: &String| !text.trim_matches('*').trim().is_empty();
                Ok(single.chain(double).filter(full).count() >= self.number("num_highlights")?)
            }
            "detectable_format:multiple_sections" => {
                let sections = count(&format!(r"\s?{}\s?\d+\s?", self.text("section_spliter")?.trim()))?;
                Ok(sections >= self.number("num_sections")?)
            }
            "detectable_format:json_format" => {
                let mut text = answer.trim();
                for fence in ["```json", "```Json", "```JSON", "```"] {
                    text = text.strip_prefix(fence).unwrap_or(text);
                }
                let text = text.strip_suffix("```").unwrap_or(text).trim();
                Ok(serde_json::from_str::<Value>(text).is_ok())
            }
            "detectable_format:title" => {
                let titles = pattern(r"<<[^\n]+>>")?.find_all(answer);
                Ok(titles.iter().flatten().any(|t| !t.trim_start_matches('<').trim_end_matches('>').trim().is_empty()))
            }
            "combination:two_responses" => {
                let parts: Vec<&str> = answer.split("******").collect();
                let inner = parts.get(1..parts.len() - 1).unwrap_or_default();
                let full: Vec<&str> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
                let two = full.len() == 2 && full[0] != full[1];
                Ok(two && inner.iter().all(|part| !part.trim().is_empty()))
            }
            "combination:repeat_prompt" => {
                let repeat = self.text("prompt_to_repeat").unwrap_or(self.prompt);
                Ok(answer.trim().to_lowercase().starts_with(&repeat.trim().to_lowercase()))
            }
            "startend:end_checker" => {
                let end = self.text("end_phrase")?.trim().to_lowercase();
                Ok(answer.trim().trim_matches('"').to_lowercase().ends_with(&end))
            }
            "startend:quotation" => {
                let text = answer.trim();
                Ok(text.chars().count() > 1 && text.starts_with('"') && text.ends_with('"'))
            }
            "change_case:capital_word_frequency" => {
                let words = pattern(r"\w+(?:-\w+)*")?.find_all(answer).into_iter().flatten();
                let capital = words.filter(|word| cased(word, char::is_lowercase)).count();
                self.compare(capital, "capital_frequency", "capital_relation")
            }
            "change_case:english_capital" => Ok(cased(answer, char::is_lowercase)),
            "change_case:english_lowercase" => Ok(cased(answer, char::is_uppercase)),
            "punctuation:no_comma" => Ok(!answer.contains(',')),
            other => Err(format!("the instruction `{other}` cannot be verified here; remove such documents")),
        }
    }

    /// Whether the n-th of a number of paragraphs begins with a word.
    fn first_word(&self, answer: &str) -> Result<bool, String> {
        let paragraphs: Vec<&str> = answer.split("\n\n").collect();
        let full = paragraphs.iter().filter(|paragraph| !paragraph.trim().is_empty()).count();
        let nth = self.number("nth_paragraph")?;
        if nth == 0 || nth > full {
            return Ok(false);
        }
        let Some(word) = paragraphs[nth - 1].split_whitespace().next() else { return Ok(false) };
        let word = word.trim_start_matches('\'').trim_start_matches('"').to_lowercase();
        let word = word.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or_default();
        Ok(full == self.number("num_paragraphs")? && word == self.text("first_word")?.to_lowercase())
    }
}

/// Whether a text has letters with case and none of the wrong case (`str.isupper`, `str.islower`).
fn cased(text: &str, wrong: fn(char) -> bool) -> bool {
    text.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && !text.chars().any(wrong)
}

/// Ends of sentences: marks that white space or the end follows.
fn sentences(text: &str) -> usize {
    let text = text.trim();
    let mut count = 0;
    let mut letters = text.chars().peekable();
    let mut words = false;
    while let Some(c) = letters.next() {
        words |= c.is_alphanumeric();
        let ends = matches!(c, '.' | '!' | '?') && letters.peek().is_none_or(|next| next.is_whitespace());
        if ends && words {
            count += 1;
            words = false;
        }
    }
    count + usize::from(words)
}

fn split(pattern: &str, text: &str) -> Result<Vec<String>, String> {
    let mark = '\u{fdd0}';
    let marked = Pattern::new(pattern)?.replace_all(text, &mark.to_string());
    Ok(marked.split(mark).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Each line: an instruction, its options, an answer that follows it, and one that does not.
    fn cases() -> Vec<(&'static str, Value, &'static str, &'static str)> {
        vec![
            ("keywords:existence", json!({"keywords": ["cat", "dog"]}), "A Cat and a dog.", "A cat."),
            ("keywords:frequency", json!({"keyword": "cat", "frequency": 2, "relation": "at least"}), "cat CAT", "cat"),
            (
                "keywords:frequency",
                json!({"keyword": "cat", "frequency": 2, "relation": "less than"}),
                "cat",
                "cat cat",
            ),
            ("keywords:forbidden_words", json!({"forbidden_words": ["cat"]}), "concatenate", "a cat"),
            (
                "keywords:letter_frequency",
                json!({"letter": "a", "let_frequency": 3, "let_relation": "at least"}),
                "Aa a",
                "aa",
            ),
            (
                "length_constraints:number_words",
                json!({"num_words": 3, "relation": "at least"}),
                "one, two three",
                "one two",
            ),
            (
                "length_constraints:number_sentences",
                json!({"num_sentences": 2, "relation": "at least"}),
                "One. Two!",
                "Only 1.5 of one.",
            ),
            (
                "length_constraints:number_paragraphs",
                json!({"num_paragraphs": 2}),
                "one\n***\ntwo",
                "one\n***\n***\ntwo",
            ),
            (
                "length_constraints:nth_paragraph_first_word",
                json!({"nth_paragraph": 2, "num_paragraphs": 2, "first_word": "Then"}),
                "One\n\nthen, two",
                "One\n\nNow two",
            ),
            ("detectable_content:number_placeholders", json!({"num_placeholders": 2}), "[name] [city]", "[name]"),
            ("detectable_content:postscript", json!({"postscript_marker": "P.S."}), "Hello\nP.S. more", "Hello"),
            ("detectable_format:number_bullet_lists", json!({"num_bullets": 2}), "* a\n- b", "* a"),
            ("detectable_format:constrained_response", json!({}), "My answer is yes.", "Yes."),
            (
                "detectable_format:number_highlighted_sections",
                json!({"num_highlights": 2}),
                "*a* and *b*",
                "*a* and **",
            ),
            (
                "detectable_format:multiple_sections",
                json!({"section_spliter": "Section", "num_sections": 2}),
                "Section 1 x Section 2 y",
                "Section 1",
            ),
            ("detectable_format:json_format", json!({}), "```json\n{\"a\": 1}\n```", "{a: 1}"),
            ("detectable_format:title", json!({}), "<<A title>>\ntext", "<< >>"),
            ("combination:two_responses", json!({}), "one\n******\ntwo", "one\n******\none"),
            ("combination:repeat_prompt", json!({"prompt_to_repeat": "Say it."}), "say it. Done.", "Done."),
            ("startend:end_checker", json!({"end_phrase": "The end."}), "So. The END.", "The end. Not."),
            ("startend:quotation", json!({}), "\"all of it\"", "\"part\" of it"),
            (
                "change_case:capital_word_frequency",
                json!({"capital_frequency": 2, "capital_relation": "at least"}),
                "THE END",
                "THE end",
            ),
            ("change_case:english_capital", json!({}), "ALL OF IT 1", "All of it"),
            ("change_case:english_lowercase", json!({}), "all of it 1", "All of it"),
            ("punctuation:no_comma", json!({}), "no", "a, b"),
        ]
    }

    #[test]
    fn every_instruction_tells_followers_from_others() {
        for (id, kwargs, good, bad) in cases() {
            let document = json!({"prompt": "p", "instruction_id_list": [id], "kwargs": [kwargs]});
            assert_eq!(followed(&document, good), Ok(vec![true]), "{id}: {good}");
            assert_eq!(followed(&document, bad), Ok(vec![false]), "{id}: {bad}");
            assert_eq!(followed(&document, "  "), Ok(vec![false]), "{id}: an empty answer");
        }
    }

    #[test]
    fn what_cannot_be_verified_is_named() {
        let document = json!({"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "de"}]});
        assert!(followed(&document, "ja").unwrap_err().contains("language:response_language"));
        let document = json!({"instruction_id_list": ["keywords:existence"], "kwargs": [{}]});
        assert!(followed(&document, "ja").unwrap_err().contains("keywords"));
    }
}
