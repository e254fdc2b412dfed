//! The screen: progress, figures, the loss curve, the loads of the experts, the last messages.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::{Marker, bar};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};

use super::state::{State, count, duration};
use crate::metrics::LayerLoad;

const FIGURES_WIDTH: u16 = 32;
const FIGURES: u16 = 12;
const BARS: [&str; 8] = [
    bar::ONE_EIGHTH,
    bar::ONE_QUARTER,
    bar::THREE_EIGHTHS,
    bar::HALF,
    bar::FIVE_EIGHTHS,
    bar::THREE_QUARTERS,
    bar::SEVEN_EIGHTHS,
    bar::FULL,
];

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, s: &State, stopping: bool) {
    let layers = s.loads.as_ref().map_or(0, |m| m.layers.len()) as u16;
    // The experts get the lines that the curve and the log do not need.
    let height = frame.area().height;
    let experts = if layers == 0 { 0 } else { (layers + 2).min(height.saturating_sub(FIGURES + 9)).min(18) };
    let [bar, middle, load, log, keys] = frame.area().layout(&Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(FIGURES + 2),
        Constraint::Length(if experts < 3 { 0 } else { experts }),
        Constraint::Max(if height > 40 { 10 } else { 6 }),
        Constraint::Length(1),
    ]));
    let [figures_area, curve] =
        middle.layout(&Layout::horizontal([Constraint::Length(FIGURES_WIDTH), Constraint::Min(20)]));
    progress(frame, bar, s);
    figures(frame, figures_area, s);
    loss_curve(frame, curve, s);
    if experts >= 3 {
        expert_bars(frame, load, s);
    }
    messages(frame, log, s);
    let text = if stopping {
        Line::from(" stopping: the run is saved after this step (ctrl-c: end at once) ").yellow()
    } else {
        Line::from(" q or ctrl-c: save and stop ").dim()
    };
    frame.render_widget(text, keys);
}

fn progress(frame: &mut Frame<'_>, area: Rect, s: &State) {
    let eta = s.eta().map_or_else(String::new, |t| format!(", {} to go", duration(t)));
    let label = format!("{}: {:.1}%{eta}", s.title, 100.0 * s.progress());
    let gauge =
        Gauge::default().ratio(s.progress()).label(label).gauge_style(Style::new().fg(Color::Blue)).use_unicode(true);
    frame.render_widget(gauge, area);
}

fn figures(frame: &mut Frame<'_>, area: Rect, s: &State) {
    let mut lines = Vec::new();
    let mut add = |name: &str, value: String| {
        lines.push(Line::from(vec![Span::from(format!(" {name:<12}")).dim(), Span::from(value)]));
    };
    if let Some(m) = &s.last {
        add("step", m.step.to_string());
        add("tokens", format!("{} of {}", count(m.tokens as f64), count(s.total_tokens as f64)));
        add("loss", format!("{:.4}", m.loss));
        if let Some(mtp) = m.mtp_loss.first() {
            add("MTP loss", format!("{mtp:.4}"));
        }
        add("validation", s.validation.as_ref().map_or("-".into(), |v| format!("{:.4} bits/byte", v.bits_per_byte)));
        add("lr", format!("{:.2e}", m.lr));
        add("grad norm", format!("{:.3}", m.grad_norm));
        add("batch", format!("{} sequences", m.batch));
        for (name, value) in &m.figures {
            add(name, format!("{value:.4}"));
        }
        add("tokens/s", count(m.tokens_per_second));
        add("MFU", format!("{:.1}%", 100.0 * m.mfu));
        add("memory", format!("{:.2} GB", m.memory as f64 / 1e9));
        add("elapsed", duration(m.elapsed));
    } else {
        lines.push(Line::from(" waiting for the first step").dim());
    }
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" run ")), area);
}

fn loss_curve(frame: &mut Frame<'_>, area: Rect, s: &State) {
    let block = Block::bordered().title(" loss (nats per token) ");
    if s.losses.len() < 2 {
        frame.render_widget(block, area);
        return;
    }
    // The first steps would flatten the rest of the curve. So from half of the run on, the curve begins at a tenth of
    // it.
    let last = s.losses[s.losses.len() - 1].0;
    let from = s.losses.iter().find(|p| p.0 >= 0.1 * last).map_or(0.0, |p| p.0);
    let first = if s.progress() > 0.5 { from } else { s.losses[0].0 };
    let shown = |p: &&(f64, f64)| p.0 >= first;
    let losses: Vec<_> = s.losses.iter().filter(shown).copied().collect();
    let validations: Vec<_> = s.validations.iter().filter(shown).copied().collect();
    let values = || losses.iter().chain(&validations).map(|p| p.1);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((high - low) * 0.05).max(0.01);
    let bounds = [low - margin, high + margin];
    let data = |points, marker, kind, colour| {
        Dataset::default().data(points).marker(marker).graph_type(kind).style(Style::new().fg(colour))
    };
    let sets = vec![
        data(&losses, Marker::Braille, GraphType::Line, Color::Blue),
        data(&validations, Marker::Dot, GraphType::Scatter, Color::Yellow),
    ];
    let labels = [bounds[0], f64::midpoint(bounds[0], bounds[1]), bounds[1]].map(|v| format!("{v:.2}"));
    let chart = Chart::new(sets)
        .block(block)
        .x_axis(Axis::default().bounds([first, last]).labels([count(first), count(last)]))
        .y_axis(Axis::default().bounds(bounds).labels(labels));
    frame.render_widget(chart, area);
}

fn expert_bars(frame: &mut Frame<'_>, area: Rect, s: &State) {
    let Some(m) = &s.loads else { return };
    let rows = area.height.saturating_sub(2) as usize;
    let width = area.width.saturating_sub(2 + 9 + 32) as usize;
    let lines: Vec<Line<'_>> = m.layers.iter().take(rows).map(|l| layer_line(l, width)).collect();
    let hidden = m.layers.len().saturating_sub(rows);
    let more = if hidden > 0 { format!(", {hidden} more layers") } else { String::new() };
    let title = format!(" expert load (half height: the layer's mean{more}) ");
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
}

/// One bar per expert, then the figures of the layer. If there are too many experts, neighbours share a bar.
fn layer_line(l: &LayerLoad, width: usize) -> Line<'static> {
    let mut spans = vec![Span::from(format!(" {:>5}  ", format!("L{}", l.layer))).dim()];
    let group = l.load.len().div_ceil(width.max(1)).max(1);
    let mean = l.load.iter().map(|&n| f64::from(n)).sum::<f64>() / l.load.len().max(1) as f64;
    for part in l.load.chunks(group) {
        let load = part.iter().map(|&n| f64::from(n)).sum::<f64>() / part.len() as f64;
        let ratio = if mean > 0.0 { load / mean } else { 0.0 };
        let bar = if load > 0.0 { BARS[((ratio * 4.0).ceil() as usize).clamp(1, 8) - 1] } else { " " };
        let style = match ratio {
            r if r > 1.5 => Style::new().fg(Color::Red),
            r if r < 0.5 => Style::new().fg(Color::Yellow),
            _ => Style::new().fg(Color::Cyan),
        };
        spans.push(Span::styled(bar, style));
    }
    let dead = if l.dead > 0.0 { format!("  {:.0}% idle", 100.0 * l.dead) } else { String::new() };
    spans.push(Span::from(format!("  MaxVio {:.2}, run {:.2}{dead}", l.max_vio, l.max_vio_run)));
    Line::from(spans)
}

fn messages(frame: &mut Frame<'_>, area: Rect, s: &State) {
    let rows = area.height.saturating_sub(2) as usize;
    let mut lines: Vec<Line<'_>> = s.messages().rev().take(rows).map(|m| Line::from(format!(" {m}"))).collect();
    lines.reverse();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" log ")), area);
}
