//! Templates over any values, rendered as Python's jinja2 does without options: the templates of task files.
//!
//! Two things differ from chat templates. Lines keep their white space, also the last one's end. A value that does not
//! exist is an error.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};

use super::text::html_json;
use super::{Limited, OUTPUT, STEPS, failure, python, rewrite};
use crate::error::Result;

/// A template over any values.
#[derive(Debug)]
pub struct TextTemplate {
    environment: Environment<'static>,
    origin: String,
}

impl TextTemplate {
    /// Compiles a template. `origin` names it in errors. `extend` may add filters and functions.
    pub fn new(source: &str, origin: &str, extend: impl FnOnce(&mut Environment<'static>)) -> Result<Self> {
        let mut environment = python::environment();
        environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default());
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_filter("tojson", html_json);
        environment.set_fuel(Some(STEPS));
        extend(&mut environment);
        environment.add_template_owned("text", rewrite::rewrite(source)).map_err(|error| failure(origin, &error))?;
        Ok(Self { environment, origin: origin.to_owned() })
    }

    /// Renders the template. `values` is a mapping of names to values.
    pub fn render(&self, values: &Value) -> Result<String> {
        let mut out = Limited { bytes: Vec::new(), limit: OUTPUT };
        let rendered =
            self.environment.get_template("text").and_then(|t| t.render_captured_to(values.clone(), &mut out));
        rendered.map_err(|error| failure(&self.origin, &error))?;
        Ok(String::from_utf8_lossy(&out.bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, json: &str) -> Result<String> {
        let values: Value = serde_json::from_str(json).unwrap();
        TextTemplate::new(source, "a test", |_| {})?.render(&values)
    }

    #[test]
    fn lines_stay_as_they_are() {
        let source = "a\n  {% if x %}\nb\n  {% endif %}\n";
        assert_eq!(render(source, r#"{"x": 1}"#).unwrap(), "a\n  \nb\n  \n");
    }

    #[test]
    fn lists_are_written_as_in_python_and_absent_values_are_errors() {
        let values = r#"{"c": {"text": ["a", "it's"], "label": ["A", "B"]}, "key": "B"}"#;
        assert_eq!(render("{{ c.text }} {{ c.label.index(key) }}", values).unwrap(), r#"['a', "it's"] 1"#);
        assert!(render("{{ absent }}", values).is_err());
        assert!(render("{{ absent.x }}", values).is_err());
        assert_eq!(render("{{ c | tojson }}", r#"{"c": "<é>"}"#).unwrap(), r#""\u003c\u00e9\u003e""#);
    }
}
