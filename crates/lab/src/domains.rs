//! Draws which kind of text goes to which experts (report, figure 9): one panel per run and layer, one row per kind of
//! text, one column per expert.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::routing::LayerRouting;
use hadal_watch::plot::{BLACK, PlotError, colour_of, key, label, level, write};

/// The routing of one run: each kind of text with its name.
pub struct Domains<'a> {
    /// The run's name.
    pub name: &'a str,
    /// Each kind of text with the gates' choices on it.
    pub texts: &'a [(String, Vec<LayerRouting>)],
}

const LEFT: i32 = 110;
const RIGHT: i32 = 120;
const TOP: i32 = 64;
const BOTTOM: i32 = 40;
const WIDTH: i32 = 960;
const ROW: i32 = 24;
/// Space above a panel for its title.
const TITLE: i32 = 26;

/// Draws the first, middle and last MoE layer of every run.
pub fn expert_load_by_domain(path: &Path, title: &str, runs: &[Domains<'_>]) -> Result<(), PlotError> {
    let bad = |why: &str| PlotError::Draw { what: "the expert load by text", why: why.into() };
    let first = runs.first().and_then(|r| r.texts.first()).ok_or_else(|| bad("there is no text"))?;
    let layers = first.1.len();
    if layers == 0 {
        return Err(bad("there are no experts"));
    }
    let mut shown = vec![0, layers / 2, layers - 1];
    shown.dedup();
    let rows = runs.iter().map(|r| r.texts.len()).max().unwrap_or(0);
    let panels = (runs.len() * shown.len()) as i32;
    let size = (WIDTH as u32, (TOP + BOTTOM + panels * (rows as i32 * ROW + TITLE)) as u32);
    write(path, size, PlotError::draw("the expert load by text"), |root| {
        draw(root, title, runs, &shown, rows).map_err(|e| e.to_string())
    })
}

fn draw<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    title: &str,
    runs: &[Domains<'_>],
    shown: &[usize],
    rows: usize,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let text = |content: &str, at, size, h, v| label(root, content, at, size, BLACK, (h, v));
    text(title, (LEFT, 8), 20, HPos::Left, VPos::Top)?;
    text("load of each expert by kind of text, as a multiple of the mean", (LEFT, 36), 14, HPos::Left, VPos::Top)?;
    let right = WIDTH - RIGHT;
    let mut top = TOP;
    for run in runs {
        for &at in shown {
            let Some(layer) = run.texts.first().and_then(|t| t.1.get(at)) else { continue };
            let heading = format!("{}, layer {}", run.name, layer.layer);
            text(&heading, (LEFT, top + TITLE - 5), 14, HPos::Left, VPos::Bottom)?;
            top += TITLE;
            for (r, (name, layers)) in run.texts.iter().enumerate() {
                let ratios = layers.get(at).map(LayerRouting::relative).unwrap_or_default();
                let y = top + r as i32 * ROW;
                let x_of = |e: usize| LEFT + (right - LEFT) * e as i32 / ratios.len().max(1) as i32;
                for (e, ratio) in ratios.iter().enumerate() {
                    let corners = [(x_of(e), y), (x_of(e + 1) - 1, y + ROW - 1)];
                    let level = (*ratio > 0.0).then(|| level(*ratio));
                    root.draw(&Rectangle::new(corners, colour_of(level).filled()))?;
                }
                text(name, (LEFT - 8, y + ROW / 2), 13, HPos::Right, VPos::Center)?;
            }
            top += rows as i32 * ROW;
        }
    }
    text("expert", (i32::midpoint(LEFT, right), top + 8), 14, HPos::Center, VPos::Top)?;
    key(root, (right + 24, TOP + TITLE), 8, ["4x", "2x", "1x", "1/2x", "1/4x"])
}
