//! Plots of how a model uses its context: needles found by length and depth, and loss by place in the window.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::panel::{self, Curve, Panel, Scale};
use super::{BLACK, COLOURS, PlotError, label, write};
use serde::{Deserialize, Serialize};

/// Needles at one length and depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeedleCell {
    /// Tokens of the text, including question and answer.
    pub length: usize,
    /// Share of the text before the needle.
    pub depth: f64,
    /// Number of questions answered correctly.
    pub found: usize,
    /// Number of questions asked.
    pub asked: usize,
}

impl NeedleCell {
    /// Share found.
    pub fn share(&self) -> f64 {
        Self::share_of([self])
    }

    /// Share of the questions of several cells that were answered correctly.
    pub fn share_of<'a>(cells: impl IntoIterator<Item = &'a Self>) -> f64 {
        let (found, asked) = cells.into_iter().fold((0, 0), |(f, a), c| (f + c.found, a + c.asked));
        found as f64 / f64::max(1.0, asked as f64)
    }

    /// Wilson's 95% interval of the share.
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.96;
        let (n, p) = (f64::max(1.0, self.asked as f64), self.share());
        let middle = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + (Z / (2.0 * n)).powi(2)).sqrt();
        let scale = 1.0 + Z * Z / n;
        (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
    }
}

const LEFT: i32 = 76;
const TOP: i32 = 64;
const BOTTOM: i32 = 62;
const RIGHT: i32 = 120;
const ROW: i32 = 34;
const GREY: RGBColor = RGBColor(120, 120, 120);

/// Share of needles found, with one column per length and one row per depth. Blue is found, red is lost, and each cell
/// shows its share.
pub fn needles(path: &Path, title: &str, cells: &[NeedleCell]) -> Result<(), PlotError> {
    let mut lengths: Vec<usize> = cells.iter().map(|c| c.length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut depths: Vec<f64> = cells.iter().map(|c| c.depth).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    if cells.is_empty() {
        return Err(PlotError::Draw { what: "the needles", why: "no question was asked".into() });
    }
    let column = (640 / lengths.len() as i32).clamp(56, 160);
    let width = (LEFT + RIGHT + column * lengths.len() as i32).max(460);
    let size = (width as u32, (TOP + BOTTOM + ROW * depths.len() as i32) as u32);
    write(path, size, PlotError::draw("the needles"), |root| {
        draw(root, title, cells, &lengths, &depths, column).map_err(|e| e.to_string())
    })
}

/// Colour of a share, from red (none) over white to blue (all).
fn colour(share: f64) -> RGBColor {
    let t = (2.0 * share - 1.0).clamp(-1.0, 1.0);
    let end = if t < 0.0 { (213.0, 94.0, 0.0) } else { (0.0, 114.0, 178.0) };
    let mix = |to: f64| (247.0 + (to - 247.0) * t.abs()).round() as u8;
    RGBColor(mix(end.0), mix(end.1), mix(end.2))
}

fn draw<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    title: &str,
    cells: &[NeedleCell],
    lengths: &[usize],
    depths: &[f64],
    column: i32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let text = |content: &str, at, size, colour: RGBColor, h, v| label(root, content, at, size, colour, (h, v));
    let right = LEFT + column * lengths.len() as i32;
    let bottom = TOP + ROW * depths.len() as i32;
    text(title, (LEFT, 8), 20, BLACK, HPos::Left, VPos::Top)?;
    text("needles found, by length of the text and depth of the needle", (LEFT, 36), 14, BLACK, HPos::Left, VPos::Top)?;
    for cell in cells {
        let place = |all: &[f64], v: f64| all.iter().position(|x| x.total_cmp(&v).is_eq()).unwrap_or(0) as i32;
        let c = lengths.iter().position(|l| *l == cell.length).unwrap_or(0) as i32;
        let (x, y) = (LEFT + c * column, TOP + place(depths, cell.depth) * ROW);
        let share = cell.share();
        root.draw(&Rectangle::new([(x, y), (x + column, y + ROW)], colour(share).filled()))?;
        root.draw(&Rectangle::new([(x, y), (x + column, y + ROW)], WHITE))?;
        let ink = if (0.15..=0.8).contains(&share) { BLACK } else { WHITE };
        let middle = (x + column / 2, y + ROW / 2);
        text(&format!("{:.0}%", 100.0 * share), middle, 14, ink, HPos::Center, VPos::Center)?;
    }
    for (r, depth) in depths.iter().enumerate() {
        let y = TOP + r as i32 * ROW + ROW / 2;
        text(&format!("{:.0}%", 100.0 * depth), (LEFT - 8, y), 13, BLACK, HPos::Right, VPos::Center)?;
    }
    text("depth", (LEFT - 8, TOP - 4), 13, BLACK, HPos::Right, VPos::Bottom)?;
    for (c, length) in lengths.iter().enumerate() {
        let x = LEFT + c as i32 * column + column / 2;
        text(&length.to_string(), (x, bottom + 8), 13, BLACK, HPos::Center, VPos::Top)?;
    }
    text("tokens", (i32::midpoint(LEFT, right), bottom + 30), 15, BLACK, HPos::Center, VPos::Top)?;
    // The key.
    let x = right + 24;
    for i in 0..=10 {
        let y = TOP + (10 - i) * 16;
        root.draw(&Rectangle::new([(x, y), (x + 20, y + 16)], colour(f64::from(i) / 10.0).filled()))?;
        if i % 5 == 0 {
            text(&format!("{}%", 10 * i), (x + 26, y + 8), 13, BLACK, HPos::Left, VPos::Center)?;
        }
    }
    root.draw(&Rectangle::new([(x, TOP), (x + 20, TOP + 176)], GREY))
}

/// Mean loss by place of the target in its window. Each model has a name and points (place, nats per token).
pub fn by_position(path: &Path, title: &str, models: &[(&str, Vec<(f64, f64)>)]) -> Result<(), PlotError> {
    let mut curves = Vec::new();
    for ((name, points), colour) in models.iter().zip(COLOURS.iter().cycle()) {
        curves.push(Curve::line(name, points.clone(), *colour));
        curves.push(Curve::dots("", points.clone(), *colour));
    }
    let panels = [Panel { y: "loss (nats per token)", scale: Scale::Linear, curves }];
    write(path, (960, 480), PlotError::draw("the loss by position"), |root| {
        panel::stack(root, title, "place in the window (tokens)", &panels, &[1])
    })
}
