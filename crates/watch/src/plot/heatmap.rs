//! The load of every expert over the run. White is balanced, blue is starved, red is overloaded, black received no
//! token.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::panel::{axis_unit, number};
use super::{BLACK, PlotError, label, write};
use crate::metrics::StepMetrics;

/// Largest number of columns (time).
const MOST_COLUMNS: usize = 96;
/// Largest number of layers. From more layers, evenly spaced ones are chosen, always including the last.
const MOST_LAYERS: usize = 8;
/// Largest number of rows per layer. With more experts, several share a row.
const MOST_ROWS: usize = 64;
/// Number of colours on each side of white, from balanced to four times or a quarter of the mean.
const LEVELS: i32 = 8;

const LEFT: i32 = 96;
const RIGHT: i32 = 150;
const TOP: i32 = 56;
const BOTTOM: i32 = 52;
const WIDTH: i32 = 960;

/// Draws the loads that `steps` recorded, one panel per layer.
pub fn expert_load(path: &Path, title: &str, steps: &[StepMetrics]) -> Result<(), PlotError> {
    let steps: Vec<&StepMetrics> = steps.iter().filter(|m| m.layers.iter().any(|l| !l.load.is_empty())).collect();
    let mut layers: Vec<usize> = steps.last().map_or_else(Vec::new, |m| m.layers.iter().map(|l| l.layer).collect());
    if layers.len() > MOST_LAYERS {
        let n = layers.len() - 1;
        layers = (0..MOST_LAYERS).map(|i| layers[i * n / (MOST_LAYERS - 1)]).collect();
    }
    if layers.is_empty() {
        return Err(PlotError::Draw { what: "the expert load", why: "no step recorded any".into() });
    }
    let maps: Vec<Map> = layers.iter().map(|&l| Map::new(&steps, l)).collect();
    let height = (520 / layers.len() as i32).clamp(64, 220);
    let size = (WIDTH as u32, (TOP + BOTTOM + layers.len() as i32 * height) as u32);
    write(path, size, PlotError::draw("the expert load"), |root| {
        draw(root, title, &layers, &maps, height, &steps).map_err(|e| e.to_string())
    })
}

/// Load divided by mean load, by column of time and row of experts. `None` if there was no token.
struct Map {
    experts: usize,
    rows: usize,
    /// Stored column by column.
    ratios: Vec<Option<f64>>,
}

impl Map {
    fn new(steps: &[&StepMetrics], layer: usize) -> Self {
        let loads: Vec<&[u32]> = steps
            .iter()
            .filter_map(|m| m.layers.iter().find(|l| l.layer == layer))
            .map(|l| l.load.as_slice())
            .collect();
        let experts = loads.iter().map(|l| l.len()).max().unwrap_or(0);
        let per_row = experts.div_ceil(MOST_ROWS).max(1);
        let rows = experts.div_ceil(per_row);
        let columns = columns(steps.len());
        let mut ratios = Vec::with_capacity(columns * rows);
        for c in 0..columns {
            let part = &loads[c * loads.len() / columns..(c + 1) * loads.len() / columns];
            let sum_of = |e: usize| part.iter().map(|l| f64::from(l.get(e).copied().unwrap_or(0))).sum::<f64>();
            let sums: Vec<f64> = (0..experts).map(sum_of).collect();
            let mean = sums.iter().sum::<f64>() / experts.max(1) as f64;
            for row in sums.chunks(per_row) {
                let load = row.iter().sum::<f64>() / row.len() as f64;
                ratios.push((load > 0.0).then(|| load / mean));
            }
        }
        Self { experts, rows, ratios }
    }
}

fn columns(steps: usize) -> usize {
    steps.min(MOST_COLUMNS)
}

/// Level of a ratio: from -LEVELS (a quarter or less) to LEVELS (four times or more).
pub fn level(ratio: f64) -> i32 {
    (ratio.log2() * 0.5 * f64::from(LEVELS)).round().clamp(f64::from(-LEVELS), f64::from(LEVELS)) as i32
}

pub fn colour_of(level: Option<i32>) -> RGBColor {
    let Some(level) = level else { return RGBColor(20, 20, 20) };
    let t = f64::from(level.abs()) / f64::from(LEVELS);
    // From light grey over a light colour to a strong one.
    let (middle, end) = if level < 0 { ((146, 197, 222), (5, 80, 160)) } else { ((244, 165, 130), (165, 15, 30)) };
    let mix = |a: u8, b: u8, t: f64| (f64::from(a) + (f64::from(b) - f64::from(a)) * t).round() as u8;
    let blend =
        |a: (u8, u8, u8), b: (u8, u8, u8), t: f64| RGBColor(mix(a.0, b.0, t), mix(a.1, b.1, t), mix(a.2, b.2, t));
    if t <= 0.5 { blend((247, 247, 247), middle, t * 2.0) } else { blend(middle, end, t * 2.0 - 1.0) }
}

/// Draws the legend of the colours, from the top left corner `at` downwards. Each level is `step` high. The names are
/// those of four times the mean, two times, once, a half and a quarter.
pub fn key<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    at: (i32, i32),
    step: i32,
    names: [&str; 5],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let y = |i: i32| at.1 + i * step;
    for i in 0..=2 * LEVELS {
        let corners = [(at.0, y(i)), (at.0 + 20, y(i + 1))];
        root.draw(&Rectangle::new(corners, colour_of(Some(LEVELS - i)).filled()))?;
    }
    for (i, name) in names.iter().enumerate() {
        let middle = y(i as i32 * LEVELS / 2) + step / 2;
        label(root, name, (at.0 + 26, middle), 13, BLACK, (HPos::Left, VPos::Center))?;
    }
    Ok(())
}

/// The smallest of 1, 2, 5, 10, 20, … that divides `most` into at most six steps.
fn round_step(most: f64) -> f64 {
    let mut power = 1.0;
    loop {
        for digit in [1.0, 2.0, 5.0] {
            if most <= 6.0 * digit * power {
                return digit * power;
            }
        }
        power *= 10.0;
    }
}

fn draw<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    title: &str,
    layers: &[usize],
    maps: &[Map],
    height: i32,
    steps: &[&StepMetrics],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let text = |content: &str, at, size, h, v| label(root, content, at, size, BLACK, (h, v));
    text(title, (WIDTH / 2, 8), 20, HPos::Center, VPos::Top)?;
    text("load of each expert, as a multiple of its layer's mean", (LEFT, 34), 14, HPos::Left, VPos::Top)?;
    let right = WIDTH - RIGHT;
    let columns = columns(steps.len()) as i32;
    let x_of = |c: i32| LEFT + (right - LEFT) * c / columns;
    for (i, map) in maps.iter().enumerate() {
        let (top, bottom) = (TOP + i as i32 * height, TOP + (i as i32 + 1) * height - 8);
        let rows = map.rows.max(1) as i32;
        let y_of = |r: i32| top + (bottom - top) * r / rows;
        let at = |c: i32, r: i32| map.ratios[(c * rows + r) as usize].map(level);
        for r in 0..map.rows as i32 {
            // Neighbours with the same colour are drawn as one rectangle.
            let mut c = 0;
            while c < columns {
                let from = c;
                while c < columns && at(c, r) == at(from, r) {
                    c += 1;
                }
                let corners = [(x_of(from), y_of(r)), (x_of(c), y_of(r + 1))];
                root.draw(&Rectangle::new(corners, colour_of(at(from, r)).filled()))?;
            }
        }
        root.draw(&Rectangle::new([(LEFT, top), (right, bottom)], RGBColor(120, 120, 120)))?;
        text(&format!("layer {}", layers[i]), (LEFT - 34, i32::midpoint(top, bottom)), 14, HPos::Right, VPos::Center)?;
        text("0", (LEFT - 6, top), 12, HPos::Right, VPos::Top)?;
        text(&map.experts.saturating_sub(1).to_string(), (LEFT - 6, bottom), 12, HPos::Right, VPos::Bottom)?;
    }
    text("expert", (LEFT - 6, TOP - 4), 12, HPos::Right, VPos::Bottom)?;
    let bottom = TOP + layers.len() as i32 * height - 8;
    let last = steps[steps.len() - 1].tokens;
    let unit = axis_unit(last);
    let most = last as f64 / unit.size;
    let step = round_step(most);
    for tick in (0..).map(|i| f64::from(i) * step).take_while(|tick| *tick <= most) {
        let x = LEFT + (f64::from(right - LEFT) * tick / most.max(1.0)) as i32;
        root.draw(&PathElement::new(vec![(x, bottom), (x, bottom + 5)], RGBColor(120, 120, 120)))?;
        text(&number(tick), (x, bottom + 8), 14, HPos::Center, VPos::Top)?;
    }
    text(&unit.label, (i32::midpoint(LEFT, right), bottom + 28), 15, HPos::Center, VPos::Top)?;
    let (x, step) = (right + 24, 12);
    let names = ["4x or more", "2x", "1x (balanced)", "1/2x", "1/4x or less"];
    key(root, (x, TOP), step, names)?;
    let y = TOP + (2 * LEVELS + 2) * step;
    root.draw(&Rectangle::new([(x, y), (x + 20, y + step)], colour_of(None).filled()))?;
    text("no token", (x + 26, y + step / 2), 13, HPos::Left, VPos::Center)
}

#[cfg(test)]
mod tests {
    use super::round_step;

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!([1.0, 6.0, 7.0, 13.0, 1189.89, 2999.0].map(round_step), [1.0, 1.0, 2.0, 5.0, 200.0, 500.0]);
    }
}
