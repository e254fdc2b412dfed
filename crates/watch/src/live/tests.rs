use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::state::{State, count, duration};
use super::*;
use crate::metrics::{LayerLoad, Validation};

fn metrics(step: u64) -> StepMetrics {
    let t = step as f64;
    let load: Vec<u32> = (0..16).map(|e| if e == 5 { 0 } else { 200 + 40 * ((e * 7 + step as u32) % 9) }).collect();
    StepMetrics {
        step,
        tokens: step * 4096,
        elapsed: t * 0.5,
        loss: 2.0 + 7.0 * (-t / 60.0).exp(),
        mtp_loss: vec![2.5 + 7.0 * (-t / 60.0).exp()],
        lr: 2.7e-3,
        grad_norm: 0.412,
        batch: 8,
        tokens_per_second: 8192.0,
        mfu: 0.613,
        memory: 812_000_000,
        validation: step.is_multiple_of(50).then(|| Validation {
            loss: 2.1 + 7.0 * (-t / 60.0).exp(),
            bits_per_byte: 1.234,
            ..Validation::default()
        }),
        layers: (1..=3).map(|l| LayerLoad::new(l, &load, &[7, 9, 8, 8])).collect(),
        ..StepMetrics::default()
    }
}

fn state(steps: u64) -> State {
    let mut s = State::new("quickstart", 2_000_000);
    s.say("tokenizer: 8192 tokens");
    (1..=steps).for_each(|i| s.push(&metrics(i)));
    s.say("checkpoint step-200 written\nand a second line");
    s
}

fn screen(s: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|f| view::draw(f, s, false)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn the_screen() {
    insta::assert_snapshot!("screen", screen(&state(220), 100, 34));
    insta::assert_snapshot!("small_screen", screen(&state(220), 80, 24));
}

#[test]
fn any_size_and_any_state_can_be_drawn() {
    for s in [State::new("new", 0), state(0), state(1), state(400)] {
        for (w, h) in [(1, 1), (10, 3), (30, 10), (200, 60), (80, 15)] {
            screen(&s, w, h);
        }
    }
}

#[test]
fn the_line() {
    insta::assert_snapshot!("line", state(200).line());
    assert_eq!(State::new("x", 10).line(), "");
}

#[test]
fn time_to_go_follows_this_sessions_pace() {
    let mut s = State::new("x", 3000);
    let step = |tokens, elapsed| StepMetrics { tokens, elapsed, tokens_per_second: 100.0, ..StepMetrics::default() };
    // A resumed run: another session spent an hour before the first step.
    s.push(&step(1000, 3600.0));
    assert_eq!(s.eta(), Some(20.0));
    s.push(&step(2000, 3605.0));
    assert_eq!(s.eta(), Some(5.0));
    s.push(&step(4000, 3610.0));
    assert_eq!((s.eta(), s.progress()), (Some(0.0), 1.0));
}

#[test]
fn a_long_run_keeps_its_whole_curve() {
    let mut s = State::new("x", 1_000_000);
    for i in 0..50_000u64 {
        s.push(&StepMetrics { step: i + 1, tokens: i, loss: 1.0, ..StepMetrics::default() });
    }
    assert!(s.losses.len() < 4096 && s.losses.len() > 1000);
    assert_eq!(s.losses[0].0, 0.0);
    assert!(s.losses.last().unwrap().0 > 49_900.0);
    let steps: Vec<f64> = s.losses.windows(2).map(|w| w[1].0 - w[0].0).collect();
    assert!(steps.iter().all(|&d| d == steps[0]));
}

#[test]
fn figures_are_short() {
    for (n, text) in [(7.0, "7"), (9999.0, "9999"), (12_345.0, "12.3k"), (1.5e8, "150M"), (1.48e13, "14.8T")] {
        assert_eq!(count(n), text);
    }
    for (s, text) in [(3.4, "3s"), (61.0, "1m01s"), (4000.0, "1h06m"), (200_000.0, "2d07h")] {
        assert_eq!(duration(s), text);
    }
}

#[test]
fn a_quiet_view_takes_everything_and_stops_on_a_signal() {
    let mut live = Live::start("quiet", 100, Mode::Quiet);
    live.message("hello");
    live.step(&metrics(1));
    assert!(!live.stop_requested());
    signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
    assert!(live.stop_requested());
    live.finish();
}
