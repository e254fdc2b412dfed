//! How a run reacts to a spike. The watch is so sensitive that ordinary steps count as spikes.

use crate::kill::command;
use hadal_watch::metrics;
use hadal_watch::metrics::METRICS_FILE;
use std::path::Path;

/// A run for which a gradient norm above the median is a spike. Returns whether it ended well, its output, and its
/// steps.
fn nervous(out: &Path, action: &str) -> (bool, String, Vec<metrics::StepMetrics>) {
    let mut command = command(out);
    for set in ["ignore_first=10", "window=8", "grad_ratio=1.001", "max_skips=2", "max_rollbacks=2"] {
        command.args(["--set", &format!("spike.{set}")]);
    }
    command.args(["--set", &format!("spike.action={action}")]);
    let done = command.stderr(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    let steps = metrics::read(&out.join(METRICS_FILE)).unwrap_or_else(|e| panic!("{e}; {said}"));
    (done.status.success(), said, steps)
}

#[test]
fn a_spike_is_told_skipped_or_rolled_back_as_the_recipe_says() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let spikes = |steps: &[metrics::StepMetrics]| steps.iter().filter_map(|m| m.spike.clone()).collect::<Vec<_>>();

    let (good, _, told) = nervous(&at("continue"), "continue");
    assert!(good && told.len() == 40);
    assert!(!spikes(&told).is_empty() && spikes(&told).iter().all(|s| s.contains("times the median")));

    // If an average is kept, it is validated as well, and its weights differ.
    let looks: Vec<_> = told.iter().filter_map(|m| m.validation.as_ref()).collect();
    assert!(looks.len() == 2 && looks.iter().all(|v| v.ema_loss.is_some_and(|e| e > 1.0 && (e - v.loss).abs() > 1e-6)));

    let (good, _, skipped) = nervous(&at("skip"), "skip");
    assert!(good && skipped.len() == 40);
    let first = skipped.iter().position(|m| m.spike.is_some()).unwrap();
    assert!(skipped[first].spike.as_ref().unwrap().contains("step skipped"), "{:?}", skipped[first].spike);
    // Nothing differs up to the first spike. The step after it uses weights that were not updated.
    assert!((0..=first).all(|i| skipped[i].loss.to_bits() == told[i].loss.to_bits()));
    assert_ne!(skipped[first + 1].loss.to_bits(), told[first + 1].loss.to_bits());
    // At most `max_skips` steps in a row are skipped.
    let out = |m: &metrics::StepMetrics| m.spike.as_ref().is_some_and(|s| s.contains("step skipped"));
    assert!(skipped.windows(3).all(|w| !w.iter().all(out)));

    // Every rollback goes to the last checkpoint. The third one is too many. The metrics contain no step twice.
    let (good, said, rolled) = nervous(&at("rollback"), "rollback");
    assert!(!good && said.contains("already rolled back 2 times"), "{said}");
    assert!(rolled.windows(2).all(|w| w[1].step == w[0].step + 1) && rolled.len() < 40);
}
