//! Filters: what is cut out of answers before they are scored.

use std::collections::HashMap;

use serde_json::Value;

use crate::error::Result;
use crate::file::{Node, Yaml};
use crate::pattern::Pattern;
use crate::task::keys::Keys;

/// Filters that are applied one after the other.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name in the results.
    pub name: String,
    steps: Vec<Step>,
}

/// The answers to one request while they are filtered.
#[derive(Clone, Debug, PartialEq)]
pub enum Responses {
    /// Several, in the order of generation.
    Many(Vec<Value>),
    /// One of them was chosen.
    One(Value),
}

#[derive(Clone, Debug)]
enum Step {
    Regex(RegexFilter),
    MultiChoice { regex: RegexFilter, ignore_case: bool, ignore_punctuation: bool, ignore: Vec<Pattern> },
    RemoveWhitespace,
    Lowercase,
    Uppercase,
    Map { map: HashMap<String, Value>, default: Value },
    TakeFirst,
    TakeFirstK(usize),
    MajorityVote,
}

#[derive(Clone, Debug)]
struct RegexFilter {
    pattern: Pattern,
    /// Which match is taken. Negative numbers count from the end.
    select: i64,
    fallback: String,
}

impl Responses {
    /// The answers that are left.
    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Self::Many(items) => items,
            Self::One(item) => std::slice::from_ref(item),
        }
    }
}

impl Pipeline {
    /// The pipelines of a task. Without any, the first answer is taken; with a checker, all answers are checked.
    pub(crate) fn list(keys: &mut Keys, checker: bool) -> Result<Vec<Self>> {
        let Some(node) = keys.node("filter_list")? else {
            let steps = if checker { Vec::new() } else { vec![Step::TakeFirst] };
            return Ok(vec![Self { name: "none".to_owned(), steps }]);
        };
        let Yaml::List(items) = &node.yaml else {
            return Err(keys.wrong("filter_list", "give a list of filters, each with `name` and `filter`"));
        };
        let pipelines = items.iter().map(Self::read).collect::<Result<Vec<_>>>()?;
        if pipelines.is_empty() {
            return Err(keys.wrong("filter_list", "is empty; leave it out"));
        }
        for (at, pipeline) in pipelines.iter().enumerate() {
            if pipelines[..at].iter().any(|other| other.name == pipeline.name) {
                return Err(keys.wrong("filter_list", &format!("the name `{}` stands here twice", pipeline.name)));
            }
        }
        Ok(pipelines)
    }

    fn read(node: &Node) -> Result<Self> {
        let mut keys = Keys::new(node, "filter_list.")?;
        let name = keys.text("name")?.ok_or_else(|| keys.wrong("name", "is missing; name the filter"))?;
        let steps = match keys.node("filter")? {
            Some(Node { yaml: Yaml::List(items), .. }) => items.iter().map(Step::read).collect::<Result<Vec<_>>>()?,
            _ => return Err(keys.wrong("filter", "give a list of functions")),
        };
        keys.finish()?;
        Ok(Self { name, steps })
    }

    /// The number of answers that it needs.
    pub(crate) fn needs(&self) -> usize {
        let one = |step: &Step| if let Step::TakeFirstK(k) = step { *k } else { 1 };
        self.steps.iter().map(one).max().unwrap_or(1)
    }

    /// Filters the answers to one request.
    pub fn apply(&self, responses: Vec<String>, document: &Value) -> Result<Responses, String> {
        let mut now = Responses::Many(responses.into_iter().map(Value::String).collect());
        for step in &self.steps {
            now = step.apply(now, document)?;
        }
        Ok(now)
    }
}

impl Step {
    fn read(node: &Node) -> Result<Self> {
        let mut keys = Keys::new(node, "filter_list.filter.")?;
        let Some(function) = keys.text("function")? else {
            return Err(keys.wrong("function", "is missing; name the filter's function"));
        };
        let step = match function.as_str() {
            "regex" => Self::Regex(RegexFilter::read(&mut keys)?),
            "multi_choice_regex" => {
                let patterns = keys.texts("regexes_to_ignore")?.unwrap_or_default();
                let compile = |p: &String| Pattern::new(p).map_err(|e| keys.wrong("regexes_to_ignore", &e));
                let ignore = patterns.iter().map(compile).collect::<Result<_>>()?;
                Self::MultiChoice {
                    ignore,
                    ignore_case: keys.bool("ignore_case")?.unwrap_or(false),
                    ignore_punctuation: keys.bool("ignore_punctuation")?.unwrap_or(false),
                    regex: RegexFilter::read(&mut keys)?,
                }
            }
            "remove_whitespace" => Self::RemoveWhitespace,
            "lowercase" => Self::Lowercase,
            "uppercase" => Self::Uppercase,
            "map" => {
                let map = match keys.node("mapping_dict")? {
                    None => HashMap::new(),
                    Some(node) => node.entries().iter().map(|e| (e.key.clone(), e.value.json())).collect(),
                };
                Self::Map { map, default: keys.node("default_value")?.map_or(Value::Null, Node::json) }
            }
            "take_first" => Self::TakeFirst,
            "take_first_k" => {
                let k = keys.count("k")?.filter(|k| *k > 0);
                Self::TakeFirstK(k.ok_or_else(|| keys.wrong("k", "give a number from 1 up"))?)
            }
            "majority_vote" => Self::MajorityVote,
            other => {
                let problem = format!(
                    "`{other}` is not known here; use regex, multi_choice_regex, remove_whitespace, lowercase, uppercase, \
                     map, take_first, take_first_k or majority_vote"
                );
                return Err(keys.wrong("function", &problem));
            }
        };
        keys.finish()?;
        Ok(step)
    }

    fn apply(&self, responses: Responses, document: &Value) -> Result<Responses, String> {
        let items = match (self, responses) {
            (_, Responses::Many(items)) => items,
            (_, Responses::One(_)) => {
                return Err("a filter stands behind `take_first`; put `take_first` last".to_owned());
            }
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let each = |change: &dyn Fn(&str) -> String| {
            Responses::Many(items.iter().map(|item| Value::String(change(&text(item)))).collect())
        };
        Ok(match self {
            Self::Regex(filter) => each(&|text| filter.extract(text)),
            Self::MultiChoice { regex, ignore_case, ignore_punctuation, ignore } => {
                let choices =
                    Choices::of(document, &|text: &str| cleaned(text, *ignore_case, *ignore_punctuation, ignore))?;
                each(&|text| {
                    let clean = cleaned(text, *ignore_case, *ignore_punctuation, ignore);
                    regex
                        .find(text)
                        .or_else(|| choices.find(text, &clean, regex))
                        .unwrap_or_else(|| regex.fallback.clone())
                })
            }
            Self::RemoveWhitespace => each(&|text| python_strip(text).to_owned()),
            Self::Lowercase => each(&str::to_lowercase),
            Self::Uppercase => each(&str::to_uppercase),
            Self::Map { map, default } => {
                Responses::Many(items.iter().map(|item| map.get(&text(item)).unwrap_or(default).clone()).collect())
            }
            Self::TakeFirst => Responses::One(items.into_iter().next().ok_or("there is no answer to take")?),
            Self::TakeFirstK(k) => {
                if items.len() < *k {
                    return Err(format!(
                        "`take_first_k` needs {k} answers but there are {}; set `repeats: {k}`",
                        items.len()
                    ));
                }
                Responses::Many(items.into_iter().take(*k).collect())
            }
            Self::MajorityVote => {
                let vote = crate::stats::majority(&items).ok_or("there is no answer to vote on")?;
                Responses::Many(vec![items[vote].clone()])
            }
        })
    }
}

/// White space as Python sees it: four more characters than Rust's.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn python_strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

impl RegexFilter {
    fn read(keys: &mut Keys) -> Result<Self> {
        let pattern = keys.text("regex_pattern")?.unwrap_or_else(|| r"#### (\-?[0-9\.\,]+)".to_owned());
        let pattern = Pattern::new(&pattern).map_err(|problem| keys.wrong("regex_pattern", &problem))?;
        let select = keys.integer("group_select")?.unwrap_or(0);
        let fallback = keys.text("fallback")?.unwrap_or_else(|| "[invalid]".to_owned());
        Ok(Self { pattern, select, fallback })
    }

    /// The chosen match in a text.
    fn extract(&self, text: &str) -> String {
        let Some(groups) = self.chosen(&self.pattern, text) else { return self.fallback.clone() };
        let group = groups.iter().find(|group| !group.is_empty()).cloned();
        let group = if groups.len() == 1 { groups.into_iter().next() } else { group };
        group.map_or_else(|| self.fallback.clone(), |group| python_strip(&group).to_owned())
    }

    /// The same, but nothing where nothing is found.
    fn find(&self, text: &str) -> Option<String> {
        let group = self.chosen(&self.pattern, text)?.into_iter().find(|group| !group.is_empty())?;
        Some(python_strip(&group).to_owned()).filter(|group| !group.is_empty())
    }

    fn chosen(&self, pattern: &Pattern, text: &str) -> Option<Vec<String>> {
        let mut all = pattern.find_all(text);
        let at = if self.select < 0 { all.len() as i64 + self.select } else { self.select };
        let at = usize::try_from(at).ok().filter(|at| *at < all.len())?;
        Some(all.swap_remove(at))
    }
}

fn cleaned(text: &str, case: bool, punctuation: bool, ignore: &[Pattern]) -> String {
    let mut text = ignore.iter().fold(text.to_owned(), |text, pattern| pattern.replace_all(&text, ""));
    if case {
        text = text.to_lowercase();
    }
    if punctuation {
        // The Unicode category P. ASCII symbols such as `$` and `+` are not in it.
        text.retain(|c| !(c.is_ascii_punctuation() && !"$+<=>^`|~".contains(c) || is_punctuation(c)));
    }
    text
}

/// Punctuation beyond ASCII: the blocks and letters of category P that texts use.
fn is_punctuation(c: char) -> bool {
    matches!(c, '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{2043}' | '\u{2045}'..='\u{2051}' | '\u{2053}'..='\u{205e}'
        | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301f}' | '\u{ff01}'..='\u{ff03}'
        | '\u{ff05}'..='\u{ff0a}' | '\u{ff0c}'..='\u{ff0f}' | '\u{ff1a}' | '\u{ff1b}' | '\u{ff1f}' | '\u{ff20}'
        | '¡' | '§' | '«' | '¶' | '·' | '»' | '¿')
}

/// The choices of a document, for answers that name one.
struct Choices {
    texts: Vec<(String, String)>,
    letters: Option<Pattern>,
}

impl Choices {
    fn of(document: &Value, clean: &dyn Fn(&str) -> String) -> Result<Self, String> {
        let Some(choices) = document.get("choices").and_then(Value::as_array) else {
            return Err("`multi_choice_regex` reads the field `choices`, a list, but the document has none".to_owned());
        };
        let letter = |at: usize| char::from_u32('A' as u32 + at as u32).unwrap_or('?');
        let name = |(at, choice): (usize, &Value)| {
            let text = choice.as_str().unwrap_or_default();
            (clean(python_strip(text)), format!("({})", letter(at)))
        };
        let texts: Vec<_> = choices.iter().enumerate().map(name).collect();
        let letters: Vec<String> = (0..choices.len()).map(|at| letter(at).to_string()).collect();
        let letters = Pattern::new(&format!(r":[\s]*({})", letters.join("|"))).ok();
        Ok(Self { texts, letters })
    }

    fn find(&self, text: &str, clean: &str, regex: &RegexFilter) -> Option<String> {
        let mut longest: Vec<&(String, String)> = self.texts.iter().collect();
        longest.sort_by_key(|(text, _)| std::cmp::Reverse(text.chars().count()));
        // The last of equal texts gives its letter, as a dictionary does.
        let name = |found: &str| self.texts.iter().rev().find(|(text, _)| text == found).map(|(_, name)| name.clone());
        let escaped: Vec<String> = longest.iter().map(|(text, _)| escape(text)).collect();
        let by_text = Pattern::new(&escaped.join("|")).ok().and_then(|pattern| regex.chosen(&pattern, clean));
        if let Some(found) = by_text.and_then(|groups| groups.into_iter().next()) {
            let found = python_strip(&found).to_owned();
            if !found.is_empty() {
                return Some(name(&found).unwrap_or(found));
            }
        }
        let letter = regex.chosen(self.letters.as_ref()?, text)?.into_iter().next()?;
        Some(format!("({letter})"))
    }
}

fn escape(text: &str) -> String {
    let special = |c: char| !(c.is_alphanumeric() || c == '_') && c.is_ascii_punctuation();
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
