//! Lines that begin with a slash are commands. All others are text for the model.

use std::path::PathBuf;

/// What each command does, as `/help` shows it.
pub(super) const COMMANDS: [(&str, &str); 12] = [
    ("/help", "show the commands"),
    ("/system [TEXT]", "set the text that the conversation begins with (-: none), or show it"),
    ("/new", "begin a new conversation with the same system text and tools"),
    ("/undo", "take back your last message and its answer"),
    ("/retry", "let the model answer again"),
    ("/think on|off", "ask for answers with thoughts or without"),
    ("/set [NAME VALUE ...]", "change how tokens are drawn, as in /set temperature 0.7 top_p 0.9, or show it"),
    ("/save FILE", "write the conversation as JSON, in the form of OpenAI's API"),
    ("/load FILE", "go on with the conversation in a file"),
    ("/tools [FILE]", "let the model call the tools in a JSON file, or none; their results are asked for"),
    ("/stats", "show tokens and speed of the last answer, and how many tokens the cache had"),
    ("/quit", "leave (Ctrl-D does as well)"),
];

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Help,
    /// Sets the system text, or removes it.
    System(Option<String>),
    ShowSystem,
    New,
    Undo,
    Retry,
    Think(bool),
    /// Names and values. None of them shows all.
    Set(Vec<(String, f64)>),
    Save(PathBuf),
    Load(PathBuf),
    /// The file, or none.
    Tools(Option<PathBuf>),
    Stats,
    Quit,
}

/// Reads a command. `None` if the line is text.
pub(super) fn parse(line: &str) -> Option<Result<Command, String>> {
    let (name, rest) = line.strip_prefix('/')?.split_once(char::is_whitespace).unwrap_or((&line[1..], ""));
    Some(command(name, rest.trim()))
}

fn command(name: &str, rest: &str) -> Result<Command, String> {
    let alone = |command| if rest.is_empty() { Ok(command) } else { Err(format!("/{name} takes nothing after it")) };
    let file = || if rest.is_empty() { Err(format!("name a file: /{name} FILE")) } else { Ok(PathBuf::from(rest)) };
    match name {
        "help" => alone(Command::Help),
        "new" => alone(Command::New),
        "undo" => alone(Command::Undo),
        "retry" => alone(Command::Retry),
        "stats" => alone(Command::Stats),
        "quit" => alone(Command::Quit),
        "save" => file().map(Command::Save),
        "load" => file().map(Command::Load),
        "tools" => Ok(Command::Tools(file().ok())),
        "system" => Ok(match rest {
            "" => Command::ShowSystem,
            "-" => Command::System(None),
            text => Command::System(Some(text.to_owned())),
        }),
        "think" => match rest {
            "on" => Ok(Command::Think(true)),
            "off" => Ok(Command::Think(false)),
            _ => Err("say /think on or /think off".into()),
        },
        "set" => pairs(rest).map(Command::Set),
        _ => Err(format!("there is no command /{name}: /help shows them; put a space in front if this is text")),
    }
}

/// Names with their values. An equals sign may stand between them.
fn pairs(text: &str) -> Result<Vec<(String, f64)>, String> {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c == '=').filter(|word| !word.is_empty()).collect();
    let pair = |pair: &[&str]| match pair {
        [name, value] => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(((*name).to_owned(), number)),
            _ => Err(format!("`{value}` is not a number: say /set {name} NUMBER")),
        },
        _ => Err(format!("`{}` has no value: say /set {} NUMBER", pair[0], pair[0])),
    };
    words.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_text() {
        let read = |line: &str| parse(line).unwrap().unwrap();
        for text in ["hello", "", " /help", "a /help"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for (line, command) in [
            ("/help", Command::Help),
            ("/new ", Command::New),
            ("/undo", Command::Undo),
            ("/retry", Command::Retry),
            ("/stats", Command::Stats),
            ("/quit", Command::Quit),
            ("/think on", Command::Think(true)),
            ("/think  off", Command::Think(false)),
            ("/system", Command::ShowSystem),
            ("/system -", Command::System(None)),
            ("/system Be brief.\nAnd kind.", Command::System(Some("Be brief.\nAnd kind.".into()))),
            ("/save a b.json", Command::Save("a b.json".into())),
            ("/load x", Command::Load("x".into())),
            ("/tools", Command::Tools(None)),
            ("/tools t.json", Command::Tools(Some("t.json".into()))),
            ("/set", Command::Set(Vec::new())),
            ("/set temperature 0.7 top_k=40", Command::Set(vec![("temperature".into(), 0.7), ("top_k".into(), 40.0)])),
        ] {
            assert_eq!(read(line), command, "{line}");
        }
    }

    #[test]
    fn mistakes_say_what_to_do() {
        for (line, part) in [
            ("/", "no command /:"),
            ("/etc/hosts", "no command /etc/hosts:"),
            ("/undo 3", "takes nothing"),
            ("/think", "/think on"),
            ("/save", "/save FILE"),
            ("/set temperature", "`temperature` has no value"),
            ("/set temperature hot", "`hot` is not a number"),
            ("/set temperature inf", "`inf` is not a number"),
        ] {
            let error = parse(line).unwrap().unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
