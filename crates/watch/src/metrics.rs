//! The record of a step: one line of JSON in `metrics.jsonl`.
//!
//! Each line is written with one call, so a killed run leaves at most its last line half written. A resume cuts the
//! file back to the step from which it resumes. So no step occurs twice, and a plot shows one unbroken run. A number
//! that is NaN or infinite is written as null and read as NaN, because a diverged step is worth seeing.
//!
//! The loads follow report section 2.1.2: MaxVio = largest load / mean load - 1.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use hadal_base::{IoContext, IoError};
use serde::{Deserialize, Serialize};

/// Name of the log in a run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One optimiser step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepMetrics {
    /// The first step is 1.
    pub step: u64,
    /// Tokens seen, including this step's.
    pub tokens: u64,
    /// Seconds of training, over all resumes.
    pub elapsed: f64,
    /// Mean loss of the next token, in nats per token.
    #[serde(with = "nan_as_null")]
    pub loss: f64,
    /// Mean loss of each MTP depth, without its weight.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "nans_as_null")]
    pub mtp_loss: Vec<f64>,
    /// Balance loss as it enters the total loss, summed over layers.
    #[serde(with = "nan_as_null")]
    pub balance_loss: f64,
    pub lr: f64,
    /// Global gradient norm before clipping.
    #[serde(with = "nan_as_null")]
    pub grad_norm: f64,
    /// Sequences in the step.
    pub batch: u64,
    pub gamma: f64,
    pub mtp_weight: f64,
    pub tokens_per_second: f64,
    /// Model FLOPs as a share of the measured peak.
    pub mfu: f64,
    /// Seconds that the step waited for its data.
    pub loader_wait: f64,
    /// Resident memory in bytes.
    pub memory: u64,
    /// The objective's own figures, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// What the spike watch found and did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike: Option<String>,
    /// The validation made after this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// One entry per layer with experts; MTP modules come last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerLoad>,
}

/// An evaluation on the held-out text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validation {
    /// Mean loss of the next token, in nats per token.
    #[serde(with = "nan_as_null")]
    pub loss: f64,
    #[serde(with = "nan_as_null")]
    pub bits_per_byte: f64,
    /// The same with the averaged weights, if an average is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_loss: Option<f64>,
}

/// The experts of one layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerLoad {
    /// Layer of the model. MTP modules continue the count after the last layer.
    pub layer: usize,
    /// MaxVio of this step's batch.
    pub max_vio: f64,
    /// MaxVio of the run so far.
    pub max_vio_run: f64,
    /// Share of experts without a token in this step.
    pub dead: f64,
    /// Tokens of each expert in this step. Empty in steps that do not log it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<u32>,
}

impl LayerLoad {
    /// Computes the entry from a step's loads and the run's loads so far, which include this step's.
    pub fn new(layer: usize, step: &[u32], run: &[u64]) -> Self {
        let dead = step.iter().filter(|&&n| n == 0).count() as f64 / step.len().max(1) as f64;
        Self {
            layer,
            max_vio: max_vio(step.iter().map(|&n| f64::from(n))),
            max_vio_run: max_vio(run.iter().map(|&n| n as f64)),
            dead,
            load: step.to_vec(),
        }
    }
}

/// Largest load / mean load - 1, or 0 if nothing was routed.
pub fn max_vio(load: impl Iterator<Item = f64>) -> f64 {
    let (mut max, mut sum, mut n) = (0.0f64, 0.0, 0.0);
    for x in load {
        max = max.max(x);
        sum += x;
        n += 1.0;
    }
    if sum > 0.0 { max * n / sum - 1.0 } else { 0.0 }
}

impl StepMetrics {
    /// Mean MaxVio of the step over its layers, or `None` without experts.
    pub fn mean_max_vio(&self) -> Option<f64> {
        let n = self.layers.len();
        (n > 0).then(|| self.layers.iter().map(|l| l.max_vio).sum::<f64>() / n as f64)
    }

    /// Largest share of dead experts over the layers.
    pub fn dead(&self) -> f64 {
        self.layers.iter().map(|l| l.dead).fold(0.0, f64::max)
    }
}

/// The open log of a run.
#[derive(Debug)]
pub struct MetricsLog {
    file: File,
    path: PathBuf,
}

impl MetricsLog {
    /// Opens the log of `folder` for a run that continues after `step` (0 for a new run). Lines of later steps are
    /// removed, and so is everything from the first line that cannot be read.
    pub fn open(folder: &Path, step: u64) -> Result<Self, IoError> {
        let path = folder.join(METRICS_FILE);
        let keep = match File::open(&path) {
            Ok(file) => kept_bytes(BufReader::new(file), step),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        };
        let open = |keep| {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.set_len(keep)?;
            Ok(file)
        };
        let file = keep.and_then(open).at("open", &path)?;
        Ok(Self { file, path })
    }

    /// Adds one step.
    pub fn append(&mut self, m: &StepMetrics) -> Result<(), IoError> {
        let mut line = serde_json::to_vec(m).expect("metrics have string keys");
        line.push(b'\n');
        self.file.write_all(&line).at("write to", &self.path)
    }
}

/// Length of the lines up to `step` that are complete and readable.
fn kept_bytes(mut file: impl BufRead, step: u64) -> std::io::Result<u64> {
    let (mut keep, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let n = file.read_until(b'\n', &mut line)?;
        if n == 0 || !line.ends_with(b"\n") {
            return Ok(keep);
        }
        match serde_json::from_slice::<StepMetrics>(&line) {
            Ok(m) if m.step <= step => keep += n as u64,
            _ => return Ok(keep),
        }
    }
}

/// Reads the steps of a log. A last line that is still being written is ignored. `path` is the log or its run's folder.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>, IoError> {
    let path = if path.is_dir() { path.join(METRICS_FILE) } else { path.to_owned() };
    let text = fs::read(&path).at("read", &path)?;
    let mut out = Vec::new();
    for line in text.split_inclusive(|&b| b == b'\n') {
        match serde_json::from_slice(line) {
            Ok(m) => out.push(m),
            Err(_) if !line.ends_with(b"\n") => break,
            Err(e) => {
                let error = std::io::Error::other(format!("line {}: {e}", out.len() + 1));
                return Err(IoError { action: "read", path, error });
            }
        }
    }
    Ok(out)
}

mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        x.is_finite().then_some(*x).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Option::deserialize(d).map(|x: Option<f64>| x.unwrap_or(f64::NAN))
    }
}

mod nans_as_null {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &[f64], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(x.iter().map(|v| v.is_finite().then_some(*v)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        let v: Vec<Option<f64>> = Vec::deserialize(d)?;
        Ok(v.into_iter().map(|x| x.unwrap_or(f64::NAN)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            tokens: step * 4096,
            loss: 5.0 / step as f64,
            mtp_loss: vec![0.1 + 0.2, 7.0],
            layers: vec![LayerLoad::new(1, &[3, 0, 5, 0], &[30, 10, 50, 10])],
            ..StepMetrics::default()
        }
    }

    #[test]
    fn loads_become_figures() {
        let l = LayerLoad::new(1, &[3, 0, 5, 0], &[30, 10, 50, 10]);
        assert_eq!((l.max_vio, l.max_vio_run, l.dead), (1.5, 1.0, 0.5));
        assert_eq!(max_vio([4.0, 4.0, 4.0].into_iter()), 0.0);
        assert_eq!(max_vio([8.0, 0.0, 4.0].into_iter()), 1.0);
        assert_eq!(max_vio([0.0, 0.0].into_iter()), 0.0);
        assert_eq!(max_vio(std::iter::empty()), 0.0);
    }

    #[test]
    fn a_resume_leaves_no_step_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(dir.path(), 0).unwrap();
        for i in 1..=5 {
            log.append(&step(i)).unwrap();
        }
        drop(log);
        let path = dir.path().join(METRICS_FILE);
        let whole = fs::read(&path).unwrap();
        // As if the process was killed while it wrote step 6.
        fs::write(&path, [&whole[..], b"{\"step\":6,\"tok"].concat()).unwrap();
        assert_eq!(read(dir.path()).unwrap().len(), 5);
        // The last checkpoint was at step 3.
        let mut log = MetricsLog::open(dir.path(), 3).unwrap();
        for i in 4..=6 {
            log.append(&step(i)).unwrap();
        }
        let steps = read(&path).unwrap();
        assert_eq!(steps, (1..=6).map(step).collect::<Vec<_>>());
        // The checkpoint is later than the log, and the last line is incomplete.
        fs::write(&path, [&whole[..], b"{\"step\":6,\"tok"].concat()).unwrap();
        MetricsLog::open(dir.path(), 6).unwrap().append(&step(7)).unwrap();
        let steps: Vec<u64> = read(&path).unwrap().iter().map(|m| m.step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 7]);
        // A new run in an old folder.
        MetricsLog::open(dir.path(), 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_diverged_step_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(dir.path(), 0).unwrap();
        log.append(&StepMetrics { loss: f64::NAN, mtp_loss: vec![f64::INFINITY], ..step(1) }).unwrap();
        let m = &read(dir.path()).unwrap()[0];
        assert!(m.loss.is_nan() && m.mtp_loss[0].is_nan() && m.step == 1);
    }

    #[test]
    fn damage_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.jsonl");
        fs::write(&path, "{\"step\":1}\nrubbish\n{\"step\":3}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 2"));
        assert!(read(&dir.path().join("none")).unwrap_err().to_string().contains("cannot read"));
    }
}
