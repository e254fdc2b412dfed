//! Panels of curves that share a horizontal axis.

use std::fmt::Display;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::BLACK;

/// Longer curves are thinned to this number of points, because an SVG stores each point.
const MOST_POINTS: usize = 1200;

/// How a panel's vertical axis is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    FromZero,
    Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Line,
    Faint,
    Dashed,
    Dots,
}

/// Points with one colour.
pub struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
    colour: RGBColor,
    style: Style,
}

impl Curve {
    fn new(name: &str, points: Vec<(f64, f64)>, colour: RGBColor, style: Style) -> Self {
        let points = points.into_iter().filter(|p| p.1.is_finite()).collect();
        Self { name: name.into(), points, colour, style }
    }

    pub fn line(name: &str, points: Vec<(f64, f64)>, colour: RGBColor) -> Self {
        Self::new(name, points, colour, Style::Line)
    }

    /// A curve behind the others, without a name.
    pub fn faint(points: Vec<(f64, f64)>, colour: RGBColor) -> Self {
        Self::new("", points, colour, Style::Faint)
    }

    pub fn dashed(name: &str, points: Vec<(f64, f64)>, colour: RGBColor) -> Self {
        Self::new(name, points, colour, Style::Dashed)
    }

    pub fn dots(name: &str, points: Vec<(f64, f64)>, colour: RGBColor) -> Self {
        Self::new(name, points, colour, Style::Dots)
    }

    /// The points, thinned so that each stretch keeps its lowest and its highest point.
    fn thinned(&self) -> Vec<(f64, f64)> {
        let n = self.points.len();
        if n <= MOST_POINTS {
            return self.points.clone();
        }
        let mut out = Vec::with_capacity(MOST_POINTS);
        for chunk in self.points.chunks(n.div_ceil(MOST_POINTS / 2)) {
            let low = (0..chunk.len()).min_by(|&a, &b| chunk[a].1.total_cmp(&chunk[b].1)).unwrap_or(0);
            let high = (0..chunk.len()).max_by(|&a, &b| chunk[a].1.total_cmp(&chunk[b].1)).unwrap_or(0);
            out.push(chunk[low.min(high)]);
            if low != high {
                out.push(chunk[low.max(high)]);
            }
        }
        out
    }
}

/// Curves that share a vertical axis.
pub struct Panel<'a> {
    pub y: &'a str,
    pub scale: Scale,
    pub curves: Vec<Curve>,
}

impl Panel<'_> {
    fn range(&self) -> Range<f64> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for &(_, y) in self.curves.iter().flat_map(|c| &c.points) {
            (low, high) = (low.min(y), high.max(y));
        }
        if low > high {
            (low, high) = if self.scale == Scale::Log { (0.1, 10.0) } else { (0.0, 1.0) };
        }
        match self.scale {
            Scale::Log => low / 1.2..(high * 1.2).max(low * 2.0),
            Scale::FromZero => {
                // Several names need space above the curves.
                let room = if self.curves.iter().filter(|c| !c.name.is_empty()).count() > 1 { 1.25 } else { 1.08 };
                0.0..if high > 0.0 { high * room } else { 1.0 }
            }
            Scale::Linear => {
                let margin = ((high - low) * 0.05).max(1e-3);
                low - margin..high + margin
            }
        }
    }
}

/// What one tick of the token axis stands for.
pub struct Unit {
    pub size: f64,
    pub label: String,
}

/// The unit in which `most` tokens are less than 1000.
pub fn axis_unit(most: u64) -> Unit {
    let (size, name) = match most {
        0..3_000 => (1.0, ""),
        3_000..3_000_000 => (1e3, "thousand "),
        3_000_000..3_000_000_000 => (1e6, "million "),
        3_000_000_000..3_000_000_000_000 => (1e9, "billion "),
        _ => (1e12, "trillion "),
    };
    Unit { size, label: format!("{name}tokens seen") }
}

/// Draws `panels` below each other, with heights in proportion to `shares`.
pub fn stack<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    title: &str,
    x_label: &str,
    panels: &[Panel<'_>],
    shares: &[u32],
) -> Result<(), String> {
    let root = root.titled(title, ("sans-serif", 20).into_font().color(&BLACK)).map_err(|e| e.to_string())?;
    let most = panels.iter().flat_map(|p| &p.curves).flat_map(|c| &c.points).map(|p| p.0).fold(0.0, f64::max);
    let x = 0.0..if most > 0.0 { most } else { 1.0 };
    let total: u32 = shares.iter().sum();
    let height = root.dim_in_pixel().1;
    let cuts: Vec<i32> = shares
        .iter()
        .scan(0, |sum, s| {
            *sum += s;
            Some((height * *sum / total) as i32)
        })
        .collect();
    let areas = root.split_by_breakpoints::<i32, i32, _, _>(vec![], &cuts[..cuts.len() - 1]);
    for (i, (area, panel)) in areas.iter().zip(panels).enumerate() {
        let label = if i + 1 == panels.len() { x_label } else { "" };
        let y = panel.range();
        match panel.scale {
            // For a range of about a decade, a logarithmic axis would have too few ticks.
            Scale::Log if y.end > 20.0 * y.start => draw(area, label, x.clone(), y.log_scale(), panel)?,
            _ => draw(area, label, x.clone(), y, panel)?,
        }
    }
    Ok(())
}

fn draw<B: DrawingBackend, Y>(
    area: &DrawingArea<B, Shift>,
    x_label: &str,
    x: Range<f64>,
    y: Y,
    panel: &Panel<'_>,
) -> Result<(), String>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let text = |e: &dyn Display| e.to_string();
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(24)
        .x_label_area_size(if x_label.is_empty() { 22 } else { 42 })
        .y_label_area_size(76)
        .build_cartesian_2d(x, y)
        .map_err(|e| text(&e))?;
    chart
        .configure_mesh()
        .bold_line_style(RGBColor(220, 220, 220))
        .light_line_style(TRANSPARENT)
        .axis_style(RGBColor(120, 120, 120))
        .label_style(("sans-serif", 14).into_font().color(&BLACK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&BLACK))
        .x_labels(9)
        .y_labels(7)
        .x_label_formatter(&|v| number(*v))
        .y_label_formatter(&|v| number(*v))
        .x_desc(x_label)
        .y_desc(panel.y)
        .draw()
        .map_err(|e| text(&e))?;
    let mut named = false;
    for curve in &panel.curves {
        let points = curve.thinned();
        let colour = curve.colour;
        let drawn = match curve.style {
            Style::Line => chart.draw_series(LineSeries::new(points, colour.stroke_width(2))),
            Style::Faint => chart.draw_series(LineSeries::new(points, colour.mix(0.3).stroke_width(1))),
            Style::Dashed => chart.draw_series(DashedLineSeries::new(points, 8, 5, colour.stroke_width(1))),
            Style::Dots => chart.draw_series(points.into_iter().map(|p| Circle::new(p, 4, colour.filled()))),
        }
        .map_err(|e| text(&e))?;
        if !curve.name.is_empty() && !curve.points.is_empty() {
            named = true;
            let dots = curve.style == Style::Dots;
            drawn.label(curve.name.as_str()).legend(move |(x, y)| {
                let (from, size) = if dots { (x + 8, 4) } else { (x, 0) };
                let style = colour.stroke_width(if dots { 0 } else { 2 });
                EmptyElement::at((x, y))
                    + PathElement::new(vec![(0, 0), (if dots { 0 } else { 18 }, 0)], style)
                    + Circle::new((from - x, 0), size, colour.filled())
            });
        }
    }
    if named {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 14).into_font().color(&BLACK))
            .draw()
            .map_err(|e| text(&e))?;
    }
    Ok(())
}

/// The number at a tick: short, with a power of ten if it is tiny.
pub fn number(v: f64) -> String {
    let a = v.abs();
    if a < 1e-12 {
        return "0".into();
    }
    if a < 0.01 {
        let text = format!("{v:.1e}");
        return text.replace(".0e", "e");
    }
    let text = format!("{v:.2}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}
