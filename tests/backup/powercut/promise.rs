//! The promises that a disk must keep after a power cut.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::{Root, backups, run, texts, var};
use crate::support::powercut::Left;

/// The promises that every disk must keep.
pub struct Promise<'a> {
    pub config: &'a str,
    /// The command that was cut off, and is run again.
    pub args: &'a [&'a str],
    /// Backups that are there and proven in any case.
    pub good: Vec<String>,
    /// Backups that may be there until the command has said that it is done.
    pub doomed: Vec<String>,
    /// The number of proven backups once the command has said so, and the least number until then.
    pub proven: (usize, usize),
    pub before: Before,
    pub after: Option<BTreeSet<String>>,
}

/// The memory until the command has said that it is done, unless it is the new one by then.
pub enum Before {
    Texts(Option<BTreeSet<String>>),
    /// A damaged file, which stays under its own or another name.
    Damaged(Vec<u8>),
}

impl<'a> Promise<'a> {
    /// `good` stay, and the memory is `there` before and after.
    pub fn of(args: &'a [&'a str], good: Vec<String>, there: Option<BTreeSet<String>>) -> Self {
        let proven = (good.len(), good.len());
        let before = Before::Texts(there.clone());
        Self { config: "", args, good, doomed: Vec::new(), proven, before, after: there }
    }

    /// Fails with the promise that this disk breaks. `said`: the command had said that it is done.
    pub fn broken(&self, root: &Root, said: bool) -> Result<(), String> {
        let new = self.look(root, said)?;
        match &self.before {
            Before::Texts(before) => {
                let now = texts(root)?;
                if now != self.after && (said || now != *before) {
                    let count = now.map(|texts| texts.len());
                    return Err(format!("the memory is neither the old nor the new one: {count:?} messages"));
                }
                self.memory_is_sound(root)?;
            }
            Before::Damaged(bytes) => {
                let kept = Left::of(&var(root));
                if !kept.files().any(|(_, content)| content == bytes) {
                    return Err("the damaged memory is gone".to_owned());
                }
                if said && texts(root)? != self.after {
                    return Err("the memory is not the restored one".to_owned());
                }
            }
        }
        let oldest = self.good.first().into_iter().chain(&new);
        for name in oldest {
            let verified = run(root, &["backup", "verify", name])?;
            if verified["proven"] != true {
                return Err(format!("{verified}"));
            }
        }
        run(root, self.args).map_err(|e| format!("the next run: {e}"))?;
        self.look(root, true).map_err(|e| format!("after the next run: {e}"))?;
        let names = fs::read_dir(backups(root)).unwrap().flatten();
        let mut dots = names.map(|e| e.file_name()).filter(|name| name.to_string_lossy().starts_with('.'));
        if let Some(name) = dots.find(|name| name != ".lock") {
            return Err(format!("the next run leaves {}", name.display()));
        }
        if texts(root)? != self.after {
            return Err("after the next run the memory is another one".to_owned());
        }
        self.memory_is_sound(root)
    }

    /// Looks at the list. Returns the backups that were not there before.
    fn look(&self, root: &Root, done: bool) -> Result<Vec<String>, String> {
        let listed = run(root, &["backup", "list"])?;
        let listed = listed.as_array().unwrap();
        let names: Vec<&str> = listed.iter().map(|backup| backup["name"].as_str().unwrap()).collect();
        if let Some(half) = listed.iter().find(|backup| !backup["fault"].is_null()) {
            return Err(format!("half of a backup is listed: {half}"));
        }
        if let Some(other) = names.iter().find(|name| !name.starts_with("jarvis-backup-")) {
            return Err(format!("{other} is taken for a backup"));
        }
        let proven: Vec<&str> = listed
            .iter()
            .filter(|backup| backup["proven"] == true)
            .map(|backup| backup["name"].as_str().unwrap())
            .collect();
        let wanted = if done { self.proven.1 } else { self.proven.0 };
        if proven.len() < wanted || self.good.iter().any(|good| !proven.contains(&good.as_str())) {
            return Err(format!("only these are proven: {proven:?}"));
        }
        if done && let Some(name) = self.doomed.iter().find(|name| names.contains(&name.as_str())) {
            return Err(format!("{name} is still there"));
        }
        let known = |name: &&str| self.good.iter().chain(&self.doomed).any(|known| known == name);
        Ok(names.into_iter().filter(|name| !known(name)).map(str::to_owned).collect())
    }

    fn memory_is_sound(&self, root: &Root) -> Result<(), String> {
        let data = var(root).join("lib/jarvis");
        let names = fs::read_dir(&data).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let aside = names.into_iter().find(|name| name.to_string_lossy().contains("corrupt"));
        if let (Some(name), Before::Texts(_)) = (aside, &self.before) {
            return Err(format!("taken for damaged: {}", name.display()));
        }
        let db = data.join("jarvis.db");
        let output = Command::new("sqlite3").arg(&db).arg("PRAGMA integrity_check").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if told == "ok" || !db.exists() { Ok(()) } else { Err(format!("the database: {told}")) }
    }
}
