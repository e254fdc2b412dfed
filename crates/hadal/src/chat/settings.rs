//! How tokens are drawn, as `/set` changes it.

use hadal_infer::{Adjust, SampleParams};

/// What can be set: name, least and greatest value, and whether it must be whole.
const NAMES: [(&str, f64, f64, bool); 9] = [
    ("temperature", 0.0, 100.0, false),
    ("top_p", 0.0, 1.0, false),
    ("top_k", 0.0, 4e9, true),
    ("min_p", 0.0, 1.0, false),
    ("seed", 0.0, 9e15, true),
    ("max_new", 0.0, 4e9, true),
    ("repetition_penalty", 0.01, 100.0, false),
    ("presence_penalty", -2.0, 2.0, false),
    ("frequency_penalty", -2.0, 2.0, false),
];

/// How tokens are drawn, and how many.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) params: SampleParams,
    pub(crate) adjust: Adjust,
    /// Most new tokens. Without it, as many as fit.
    pub(crate) max_new: Option<usize>,
}

impl Settings {
    /// Changes a value.
    pub(super) fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
        let found = NAMES.iter().find(|(known, ..)| *known == name);
        let Some((_, least, most, whole)) = found else {
            let names: Vec<&str> = NAMES.iter().map(|(name, ..)| *name).collect();
            return Err(format!("there is no setting `{name}`: use one of {}", names.join(", ")));
        };
        if !(*least..=*most).contains(&value) || (*whole && value.fract() != 0.0) {
            let kind = if *whole { "a whole number" } else { "a number" };
            return Err(format!("`{name}` must be {kind} from {least} to {most}"));
        }
        let (params, adjust, small) = (&mut self.params, &mut self.adjust, value as f32);
        match name {
            "temperature" => params.temperature = small,
            "top_p" => params.top_p = small,
            "top_k" => params.top_k = value as usize,
            "min_p" => params.min_p = small,
            "seed" => params.seed = value as u64,
            "max_new" => self.max_new = Some(value as usize).filter(|n| *n > 0),
            "repetition_penalty" => adjust.repetition = small,
            "presence_penalty" => adjust.presence = small,
            _ => adjust.frequency = small,
        }
        Ok(())
    }

    /// All values, for people.
    pub(super) fn show(&self) -> String {
        let (p, a) = (&self.params, &self.adjust);
        let max_new = self.max_new.map_or("as many as fit".into(), |n| n.to_string());
        format!(
            "temperature {}, top_p {}, top_k {}, min_p {}, seed {}, max_new {max_new}, repetition_penalty {}, \
             presence_penalty {}, frequency_penalty {}",
            p.temperature, p.top_p, p.top_k, p.min_p, p.seed, a.repetition, a.presence, a.frequency
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_shown() {
        let mut settings = Settings { params: SampleParams::default(), adjust: Adjust::default(), max_new: None };
        for (i, (name, ..)) in NAMES.iter().enumerate() {
            // Each name has a value of its own, so that a mix-up shows.
            let value = if name.starts_with("max") || *name == "seed" || *name == "top_k" { i as f64 } else { 0.5 };
            settings.set(name, value).unwrap();
            assert!(settings.show().contains(&format!("{name} {value}")), "{name}: {}", settings.show());
        }
        settings.set("max_new", 0.0).unwrap();
        assert_eq!(settings.max_new, None);
        for (name, value) in [("temperature", -1.0), ("top_p", 1.5), ("top_k", 0.5), ("seed", 1e300), ("beams", 2.0)] {
            let error = settings.set(name, value).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
