//! Compares the MTP modules that a checkpoint stores with those that its configuration wants.

use crate::config::ModelConfig;
use std::collections::BTreeSet;

/// MTP modules: the layers after the main model's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mtp {
    /// Number of layers of the main model, which is the number of the first module.
    pub(crate) first: usize,
    /// Number of modules in the configuration.
    pub(crate) wanted: usize,
    /// Numbers of stored layers that are MTP modules: those after the main model's layers, and others with the contents
    /// of a module.
    pub(crate) stored: BTreeSet<usize>,
}

impl Mtp {
    /// Made from a configuration and the names of the stored tensors.
    pub(crate) fn new<'a>(config: &ModelConfig, stored: impl Iterator<Item = &'a str>) -> Self {
        let (first, wanted) = (config.num_hidden_layers, config.num_nextn_predict_layers);
        let module = |name: &'a str| layer_of(name).filter(|l| *l >= first || name.ends_with(".eh_proj.weight"));
        Self { first, wanted, stored: stored.filter_map(module).collect() }
    }

    /// What to do if the stored modules differ from those in the configuration, or `None` if they agree.
    pub(crate) fn hint(&self) -> Option<String> {
        let (n, wanted) = (self.stored.len(), self.wanted);
        if self.stored.iter().copied().eq(self.first..self.first + wanted) {
            return None;
        }
        let modules = if n == 1 { "1 MTP module is stored".to_owned() } else { format!("{n} MTP modules are stored") };
        let what = format!("{modules}, but `num_nextn_predict_layers` is {wanted}");
        Some(if self.stored.iter().copied().eq(self.first..self.first + n) {
            format!("{what}: set it to {n}")
        } else {
            let numbers: Vec<String> = self.stored.iter().take(40).map(usize::to_string).collect();
            format!("{what}: found in layers {}, but the first should be in layer {}", numbers.join(", "), self.first)
        })
    }
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, Error, SaveDtype, SaveOptions, SaveTensor, save};

    /// A configuration of 8 layers.
    fn main() -> ModelConfig {
        ModelConfig::named("small").unwrap()
    }

    #[allow(clippy::unnecessary_wraps, reason = "the signature that `save` asks for")]
    fn ones(_: &SaveTensor, _: usize, out: &mut [f32]) -> Result<(), Error> {
        out.fill(1.0);
        Ok(())
    }

    /// A checkpoint of 8 layers whose configuration has `wanted` MTP modules. It stores some tensors of some modules.
    fn with_modules(wanted: usize, stored: &[usize]) -> (tempfile::TempDir, Checkpoint) {
        let config = ModelConfig { num_nextn_predict_layers: wanted, ..main() };
        let tensors: Vec<SaveTensor> = [7]
            .iter()
            .chain(stored)
            .map(|l| SaveTensor {
                name: format!("model.layers.{l}.enorm.weight"),
                shape: vec![2],
                dtype: SaveDtype::F32,
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join("m"), &config, &tensors, &SaveOptions::default(), |_| Ok(()), ones).unwrap();
        let checkpoint = Checkpoint::open(dir.path().join("m")).unwrap();
        (dir, checkpoint)
    }

    #[test]
    fn a_configuration_may_speak_of_modules_that_no_one_stored() {
        for wanted in [1, 2] {
            let (dir, checkpoint) = with_modules(wanted, &[]);
            assert_eq!(checkpoint.config().num_nextn_predict_layers, 0);
            let notice = checkpoint.notice().unwrap();
            let says = format!("`num_nextn_predict_layers` is {wanted}, but no MTP module is stored");
            assert!(notice.contains("config.json") && notice.contains(&says), "{notice}");
            assert!(checkpoint.audit().unwrap().missing.iter().all(|name| !name.starts_with("model.layers.8.")));
            // A configuration that the caller passes is not changed.
            let config = ModelConfig { num_nextn_predict_layers: wanted, ..main() };
            let asked = Checkpoint::open_with(dir.path().join("m"), config).unwrap();
            let audit = asked.audit().unwrap();
            let text = audit.to_string();
            let says = format!("0 MTP modules are stored, but `num_nextn_predict_layers` is {wanted}: set it to 0");
            assert!(
                audit.missing.iter().any(|name| name == "model.layers.8.enorm.weight") && text.contains(&says),
                "{text}"
            );
            assert_eq!(asked.notice(), None);
        }
    }

    #[test]
    fn other_modules_than_the_configuration_s_are_counted() {
        for (wanted, stored, says) in [
            (2, &[8][..], "1 MTP module is stored, but `num_nextn_predict_layers` is 2: set it to 1"),
            (3, &[8, 9], "2 MTP modules are stored, but `num_nextn_predict_layers` is 3: set it to 2"),
            (0, &[8], "1 MTP module is stored, but `num_nextn_predict_layers` is 0: set it to 1"),
            (
                2,
                &[9],
                "1 MTP module is stored, but `num_nextn_predict_layers` is 2: found in layers 9, but the first should be in layer 8",
            ),
        ] {
            let (_dir, checkpoint) = with_modules(wanted, stored);
            assert_eq!((checkpoint.config().num_nextn_predict_layers, checkpoint.notice()), (wanted, None));
            let text = checkpoint.audit().unwrap().into_result().unwrap_err().to_string();
            assert!(text.contains(says), "{says}: {text}");
        }
        // The number of modules agrees: missing tensors are named, and no other number is suggested.
        let (_dir, checkpoint) = with_modules(1, &[8]);
        let audit = checkpoint.audit().unwrap();
        let text = audit.to_string();
        let missing = audit.missing.iter().any(|name| name == "model.layers.8.hnorm.weight");
        assert!(missing && !text.contains("num_nextn_predict_layers"), "{text}");
    }
}
