//! `inspect` as text: an aligned table of at most 80 columns.

use super::Inspection;
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
        writeln!(f, "\nFLOPS PER TOKEN ({} tokens a sequence)", grouped(x.sequence as u64))?;
        let share = format!("attention scores {:.1}%", 100.0 * x.forward_attention / x.forward);
        one(f, "forward", si(x.forward), &share)?;
        one(
            f,
            "training",
            si(x.training),
            if self.mtp_modules > 0 { "3 x forward, MTP included" } else { "3 x forward" },
        )?;
        let (m, fp8) = (&self.training_memory, &self.training_memory_fp8);
        writeln!(f, "\nTRAINING MEMORY")?;
        one(f, "master weights", bytes(m.master), "f32")?;
        one(f, "gradients", bytes(m.gradients), "f32")?;
        one(f, "AdamW moments", bytes(m.moments), "2 x bf16")?;
        one(f, "packed weights", bytes(m.packed), &format!("2 x bf16; FP8 {}", bytes(fp8.packed)))?;
        let state = format!("FP8 {}; an EMA {} more", bytes(fp8.state), bytes(m.ema));
        one(f, "state", bytes(m.state), &state)?;
        let (ours, theirs) = (m.activations_per_token, fp8.activations_per_token);
        let less = 100.0 * (1.0 - theirs as f64 / ours as f64);
        one(f, "activations per token", bytes(ours), &format!("FP8 {}, {less:.0}% less", bytes(theirs)))
    }
}

/// Digits in groups of three.
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
