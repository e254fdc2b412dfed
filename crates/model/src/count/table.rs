//! `inspect` as text: an aligned table of at most 80 columns.

use super::{Inspection, TrainingMemory};
use std::fmt;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.parameters;
        writeln!(f, "{:<24}{:>20}{:>20}", "PARAMETERS", "total", "active per token")?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, total: u64, active: u64| {
            writeln!(f, "  {name:<22}{:>20}{:>20}", grouped(total), grouped(active))
        };
        for part in p.parts.iter().filter(|part| part.total > 0) {
            row(f, part.name, part.total, part.active)?;
        }
        row(f, "main model", p.main, p.active)?;
        row(f, "without embedding", p.main - (p.active - p.active_without_embedding), p.active_without_embedding)?;
        if self.mtp_modules > 0 {
            let name =
                if self.mtp_modules == 1 { "MTP module".into() } else { format!("{} MTP modules", self.mtp_modules) };
            row(f, &name, p.mtp, p.mtp_active)?;
            row(f, "all", p.main + p.mtp, p.active + p.mtp_active)?;
        }
        let one = |f: &mut fmt::Formatter<'_>, name: &str, value: String, note: &str| {
            writeln!(f, "  {name:<30}{value:>12}{}{note}", if note.is_empty() { "" } else { "  " })
        };
        writeln!(f, "\nKEY-VALUE CACHE (latent, bf16)")?;
        one(f, "per token and layer", format!("{} B", grouped(self.cache_per_token_layer)), "")?;
        one(f, "per token", format!("{} B", grouped(self.cache_per_token)), &format!("{} layers", self.layers))?;
        let longest = self.cache_per_token * self.max_position_embeddings as u64;
        one(
            f,
            "per sequence at most",
            bytes(longest),
            &format!("{} tokens", grouped(self.max_position_embeddings as u64)),
        )?;
        let x = &self.flops_per_token;
        writeln!(f, "\nFLOPS PER TOKEN ({} tokens per sequence)", grouped(x.sequence as u64))?;
        let share = format!("attention scores {:.1}%", 100.0 * x.forward_attention / x.forward);
        one(f, "forward", si(x.forward), &share)?;
        one(
            f,
            "training",
            si(x.training),
            if self.mtp_modules > 0 { "3 x forward, MTP included" } else { "3 x forward" },
        )?;
        let own = self.training_memory_recipe.as_ref();
        let own = own.filter(|m| **m != self.training_memory && **m != self.training_memory_fp8);
        let columns =
            [("BF16", Some(&self.training_memory)), ("FP8", Some(&self.training_memory_fp8)), ("recipe", own)];
        let columns = columns.into_iter().filter_map(|(name, memory)| memory.map(|m| (name, m)));
        let line = |f: &mut fmt::Formatter<'_>, name: &str, cell: &dyn Fn(&str, &TrainingMemory) -> String| {
            write!(f, "{name:<32}")?;
            columns.clone().try_for_each(|(name, memory)| write!(f, "{:>14}", cell(name, memory)))?;
            writeln!(f)
        };
        writeln!(f)?;
        line(f, "TRAINING MEMORY", &|name, _| name.to_owned())?;
        line(f, "  master weights, f32", &|_, m| bytes(m.master))?;
        line(f, "  gradients, f32", &|_, m| bytes(m.gradients))?;
        line(f, "  AdamW moments, 2 x bf16", &|_, m| bytes(m.moments))?;
        line(f, "  packed weights, 2 forms", &|_, m| bytes(m.packed))?;
        line(f, "  state", &|_, m| bytes(m.state))?;
        line(f, "  an EMA, f32, would add", &|_, m| bytes(m.ema))?;
        line(f, "  activations per token", &|_, m| bytes(m.activations_per_token))
    }
}

/// The digits of a number in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn scaled(value: f64, base: f64, units: [&str; 6]) -> String {
    let mut value = value;
    let mut unit = units[0];
    for next in &units[1..] {
        if value < base {
            break;
        }
        value /= base;
        unit = next;
    }
    if unit == units[0] { format!("{value:.0} {unit}") } else { format!("{value:.2} {unit}") }
}

fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn si(n: f64) -> String {
    scaled(n, 1000.0, ["", "K", "M", "G", "T", "P"])
}
