//! The commands and entities as tables of `docs/home-assistant.md`.

use super::command::COMMANDS;
use super::entity::VALUES;

/// The topics of the commands.
pub fn commands() -> String {
    let mut page = "| topic | payload | what it does | answer |\n|---|---|---|---|\n".to_owned();
    for command in &COMMANDS {
        let only = match &command.setting {
            Some(setting) => format!("; only with `{}`", setting.key),
            None => String::new(),
        };
        let (topic, form) = (command.topic, command.payload.form);
        page.push_str(&format!("| `{topic}` | {form} | {}{only} | {} |\n", command.doc, command.answers));
    }
    page
}

/// The entities of Home Assistant.
pub fn entities() -> String {
    let mut page = "| entity | kind | shows or does |\n|---|---|---|\n".to_owned();
    let commands = COMMANDS.iter().filter_map(|command| Some((command.entity.as_ref()?, command.doc)));
    for (entity, doc) in VALUES.iter().map(|value| (&value.entity, value.doc)).chain(commands) {
        page.push_str(&format!("| {} | {} | {doc} |\n", entity.name, entity.platform.replace('_', " ")));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Set `JARVIS_BLESS=1` to write the page anew.
    #[test]
    fn the_page_agrees_with_the_tables() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/home-assistant.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let mut wanted = page.clone();
        for (name, table) in [("commands", commands()), ("entities", entities())] {
            let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
            let (head, rest) = wanted.split_once(&begin).unwrap();
            let (_, tail) = rest.split_once(&end).unwrap();
            wanted = format!("{head}{begin}{table}{end}{tail}");
        }
        if std::env::var_os("JARVIS_BLESS").is_some() {
            std::fs::write(&path, wanted).unwrap();
            return;
        }
        assert!(
            page == wanted,
            "docs/home-assistant.md is behind; JARVIS_BLESS=1 cargo test --lib control::page writes it"
        );
    }
}
