//! The settings in words (`docs/configuration.md`) and in force (`jarvisd check-config --print`).

use std::fmt::Write;

use super::{Effective, Key};

/// Sections (name, purpose, keys) as Markdown.
pub fn page_of(sections: Vec<(&str, String, Vec<Key>)>) -> String {
    let mut page = String::new();
    for (section, doc, keys) in sections {
        page.push_str(&format!(
            "### `[{section}]`\n\n{doc}\n\n| key | value | default | |\n|---|---|---|---|\n"
        ));
        for key in keys {
            page.push_str(&row(&key));
        }
        page.push('\n');
    }
    page
}

fn row(key: &Key) -> String {
    let mut value = if key.allowed.is_empty() { key.type_words.to_owned() } else { key.allowed.clone() };
    if let Some(unit) = key.unit() {
        value = format!("{value} ({unit})");
    }
    let default = match &key.default {
        None => "not set".to_owned(),
        Some(words) if key.default_in_words => words.clone(),
        Some(value) => format!("`{value}`"),
    };
    let live = if key.live { " A reload applies it." } else { "" };
    format!("| `{}` | {value} | {default} | {}{live} |\n", key.name, key.doc)
}

/// The settings in force as TOML that can be read back, except for masked secrets; each with its place.
pub fn print(effective: &[Effective]) -> String {
    let mut text = String::new();
    let mut open = "";
    for entry in effective {
        let Some((section, key)) = entry.key.split_once('.') else { continue };
        if section != open {
            let gap = if open.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}[{section}]\n"));
            open = section;
        }
        // Writing to a String cannot fail.
        let _ = match &entry.value {
            Some(value) => writeln!(text, "{key} = {value}  # {}", entry.origin),
            None => writeln!(text, "# {key} is not set"),
        };
    }
    text
}
