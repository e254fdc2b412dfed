//! Removes from an answer what only changes how it looks.

/// Commands that only change the look, and spaces.
const LOOK: [&str; 12] = [
    "displaystyle",
    "textstyle",
    "scriptstyle",
    "limits",
    "quad",
    "qquad",
    "nolimits",
    "bf",
    "rm",
    "it",
    "hfill",
    "left",
];

/// Sizes of brackets. A command may be followed by `l`, `r` or `m`.
const SIZES: [&str; 5] = ["right", "big", "Big", "bigg", "Bigg"];

/// Removes dollars around the whole, commands for sizes and spaces, and the full stop at the end.
pub(super) fn tidy(text: &str) -> String {
    let mut text = text.trim();
    for (open, close) in [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")] {
        if let Some(inside) = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)) {
            text = inside.trim();
            break;
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let name = &after[..end];
        if name.is_empty() {
            match after.chars().next() {
                // Thin spaces inside of numbers separate thousands. `lex.rs` looks at them.
                Some(',') => out.push_str("\\,"),
                Some(';' | ':' | ' ') => out.push(' '),
                Some('!') | None => {}
                Some(c) => {
                    out.push('\\');
                    out.push(c);
                }
            }
            rest = after.get(after.chars().next().map_or(0, char::len_utf8)..).unwrap_or("");
            continue;
        }
        let size = SIZES.contains(&name) || SIZES.contains(&name.trim_end_matches(['l', 'r', 'm']));
        if LOOK.contains(&name) || size {
            out.push(' ');
            rest = &after[end..];
            // `\left.` stands for no bracket.
            if matches!(name, "left" | "right") {
                rest = rest.strip_prefix('.').unwrap_or(rest);
            }
        } else {
            out.push('\\');
            out.push_str(name);
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    let out = out.trim().trim_end_matches(',');
    let out = if out.ends_with("..") { out } else { out.strip_suffix('.').unwrap_or(out) };
    out.trim().to_owned()
}

/// Words without case, punctuation around them, and the commands that set them as text.
pub(super) fn words(text: &str) -> String {
    let mut out = text.to_owned();
    for command in ["\\text", "\\textbf", "\\textit", "\\mathrm", "\\mathbf", "\\mbox"] {
        out = out.replace(&format!("{command}{{"), "{");
    }
    let kept = out.chars().filter(|c| !c.is_whitespace() && !"{}~\\\"'".contains(*c));
    let out: String = kept.flat_map(char::to_lowercase).collect();
    out.strip_prefix('(').and_then(|o| o.strip_suffix(')')).map_or(out.clone(), str::to_owned)
}
