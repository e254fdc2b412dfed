//! Compares prompts with those of `transformers`: `chat_check TEMPLATES REFERENCES`, folders of `oracle/make_chat.py`.

use std::path::{Path, PathBuf};

use hadal_data::chat::Syntax;

#[path = "../tests/chat/compare.rs"]
mod compare;

fn main() {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [templates, references] = folders.as_slice() else {
        eprintln!("usage: chat_check TEMPLATES REFERENCES");
        std::process::exit(2);
    };
    let conversations = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat/conversations.json");
    let mut files: Vec<PathBuf> = std::fs::read_dir(references).expect("a folder").map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut failed = false;
    for expected in files {
        let name = expected.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let outcome = compare::compare(&templates.join(format!("{name}.jinja")), &expected, &conversations);
        let (equal, refused) = (outcome.equal, outcome.refused);
        let source = std::fs::read_to_string(templates.join(format!("{name}.jinja"))).unwrap_or_default();
        let Syntax { thoughts, calls } = Syntax::recognise(&source, |_| false);
        let thoughts = thoughts.map_or("none", |marks| marks.open);
        println!(
            "{name} (thoughts {thoughts}, calls {calls:?}): {equal} equal, {refused} refused by both, {} different",
            outcome.different.len()
        );
        outcome.only_ours.iter().for_each(|case| println!("  only here: {case}"));
        outcome.different.iter().for_each(|case| println!("  {case}"));
        failed |= !outcome.different.is_empty();
    }
    if failed {
        std::process::exit(1);
    }
}
