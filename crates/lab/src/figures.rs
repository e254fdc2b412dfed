//! The figures of a run, for each seed. The report's table shows them, and `measured.json` contains them.

use crate::measure::Measured;
use crate::routing::{LayerRouting, specialisation};
use hadal_watch::curve::{Spread, end};
use hadal_watch::metrics::StepMetrics;
use hadal_weights::precision::Keep;

/// The name of a figure in the table and in JSON, and its number of digits.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) key: &'static str,
    digits: usize,
    figure: fn(&[StepMetrics], &Measured) -> Option<f64>,
}

/// All figures. The table leaves out those that no run has.
pub(crate) const COLUMNS: [Column; 10] = [
    Column { title: "loss at the end", key: "loss", digits: 4, figure: |s, _| mean_end(s, |m| Some(m.loss)) },
    Column {
        title: "validation loss",
        key: "validation_loss",
        digits: 4,
        figure: |s, _| s.iter().rev().find_map(|m| Some(m.validation.as_ref()?.loss)),
    },
    Column {
        title: "validation, bits/byte",
        key: "validation_bits_per_byte",
        digits: 4,
        figure: |s, _| s.iter().rev().find_map(|m| Some(m.validation.as_ref()?.bits_per_byte)),
    },
    Column {
        title: "MTP loss",
        key: "mtp_loss",
        digits: 4,
        figure: |s, _| mean_end(s, |m| m.mtp_loss.first().copied()),
    },
    Column {
        title: "MTP drafts accepted along a text, %",
        key: "mtp_accepted_percent",
        digits: 1,
        figure: |_, m| m.along.rate().map(|r| 100.0 * r),
    },
    Column {
        title: "the same in its own greedy text, %",
        key: "mtp_accepted_own_percent",
        digits: 1,
        figure: |_, m| m.own.rate().map(|r| 100.0 * r),
    },
    Column {
        title: "MaxVio at the end",
        key: "max_vio",
        digits: 2,
        figure: |s, _| mean_end(s, StepMetrics::mean_max_vio),
    },
    Column { title: "nodes per token", key: "nodes_a_token", digits: 2, figure: |_, m| nodes(m) },
    Column {
        title: "bytes between nodes, per token and layer",
        key: "bytes_between_nodes",
        digits: 0,
        figure: |_, m| nodes(m).map(|n| n * node_bytes(m.width)),
    },
    Column { title: "specialisation", key: "specialisation", digits: 3, figure: |_, m| specialised(m) },
];

impl Column {
    /// The figure for one seed.
    pub(crate) fn of(&self, steps: &[StepMetrics], measured: &Measured) -> Option<f64> {
        (self.figure)(steps, measured)
    }

    /// The cell in the table: the mean over the seeds, with the standard deviation if there are several.
    pub(crate) fn cell(&self, seeds: &[Option<f64>]) -> Option<String> {
        let spread = Spread::of(&seeds.iter().copied().collect::<Option<Vec<f64>>>()?);
        let (digits, mean) = (self.digits, spread.mean);
        let deviation = (spread.seeds > 1).then(|| format!(" ± {:.digits$}", spread.deviation));
        Some(format!("{mean:.digits$}{}", deviation.unwrap_or_default()))
    }
}

fn mean_end(steps: &[StepMetrics], figure: impl Fn(&StepMetrics) -> Option<f64>) -> Option<f64> {
    let all: Vec<f64> = steps.iter().filter_map(figure).collect();
    (!all.is_empty()).then(|| end(all.into_iter()))
}

/// How differently the kinds of text are routed. `None` with fewer than two kinds.
pub(crate) fn specialised(m: &Measured) -> Option<f64> {
    let texts: Vec<&[LayerRouting]> = m.domains.iter().map(|d| &d.1[..]).collect();
    (texts.len() > 1 && !m.routing.is_empty()).then(|| specialisation(&texts))
}

/// Number of nodes that contain a token's experts, averaged over the layers.
fn nodes(m: &Measured) -> Option<f64> {
    let layers = m.routing.len();
    (layers > 0).then(|| m.routing.iter().map(LayerRouting::nodes_a_token).sum::<f64>() / layers as f64)
}

/// Bytes that a token sends to a node and receives from it: dispatch in FP8, combine in BF16 (report 3.2.2, 3.3.3).
fn node_bytes(width: usize) -> f64 {
    (Keep::Fp8.bytes(width as u64) + Keep::Compute.bytes(width as u64)) as f64
}
