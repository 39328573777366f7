//! Section `[backup]` of the configuration.

use std::path::{Path, PathBuf};

use super::Level;
use super::remote::Check;
use crate::config::{FilePath, Raw, Value, Words, line, lines, section, toml_list, toml_text};

section! {
    /// Backups of the memory: [backup-recovery.md](backup-recovery.md).
    Backup = "backup" {
        /// Folder for backups. Another disk than that of the memory is a better place.
        dir: Option<PathBuf> = None, Rule::any().default_is("`/var/backups/jarvis`");
        /// How thoroughly a backup is verified when it is made: its hashes, all of its content, or by
        /// restoring it into a scratch database, which takes as much space as the memory for a while.
        verify: Level = Level::Restore, Rule::any();
        /// Days that keep a backup, the newest of each. Days, weeks and months count only if they hold one.
        keep_daily: u32 = 30, Rule::between(1, 3_650);
        /// Weeks that keep the backup nearest to their Sunday.
        keep_weekly: u32 = 12, Rule::between(0, 520);
        /// Months that keep the backup nearest to their first day.
        keep_monthly: u32 = 12, Rule::between(0, 1_200);
        /// Encrypt backups so that only the owners of these keys can read them: public keys of `age`, which
        /// begin with `age1`. The secret keys need not be on the device.
        recipients: Recipients = Recipients::default(), Rule::any();
        /// File with a secret key of `age`, with which encrypted backups are verified and restored.
        identity_file: Option<FilePath> = None, Rule::any();
        /// Place for a copy of every backup elsewhere: the name of a remote in the configuration of `rclone`,
        /// and a folder there, such as `"nas:jarvis"`. Give each device a folder of its own.
        remote: Option<Remote> = None, Rule::any();
        /// Configuration file of `rclone`, with the passwords in it. Without it the systemd credential
        /// `rclone.conf` is used, where there is one, else rclone looks where it always does.
        rclone_config_file: Option<FilePath> = None, Rule::any();
        /// How a copy elsewhere is verified when it is made: the sizes of its files, or all of it read back.
        remote_verify: Check = Check::Content, Rule::any();
        /// How long nothing may happen while a copy is made or read before that is given up.
        remote_stall_s: u32 = 300, Rule::between(2, 86_400);
    }
}

impl Words for Level {
    const ALL: &'static [Self] = &[Self::Quick, Self::Full, Self::Restore];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Words for Check {
    const ALL: &'static [Self] = &[Self::Sizes, Self::Content];

    fn word(self) -> &'static str {
        match self {
            Self::Sizes => "sizes",
            Self::Content => "content",
        }
    }
}

/// A remote of rclone and a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote(pub String);

impl Value for Remote {
    fn type_words() -> String {
        "remote of rclone".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const WANTED: &str = "a remote of rclone and a folder in it, such as \"nas:jarvis\"";
        let text = line(raw, WANTED)?;
        // Not repeated: rclone also accepts passwords in such a text.
        let wrong = |why: &str| Err(format!("{why}; it needs {WANTED}"));
        let Some((name, path)) = text.split_once(':') else { return wrong("has no \":\"") };
        // Other characters could make it an option, or settings with a password, which a list of programs
        // would show.
        let plain = |c: char| c.is_alphanumeric() || "_-.+@".contains(c);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
            return wrong("does not begin with the name of a remote");
        }
        if path.starts_with("//") || (path.contains(':') && path.contains('@')) {
            return wrong("looks like an address with a user: `rclone config` keeps those");
        }
        if path.split('/').any(|part| part == "..") {
            return wrong("leads out of its folder");
        }
        Ok(Self(text))
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.0))
    }
}

/// Public keys of age; none means that backups are not encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipients(pub Vec<String>);

impl Value for Recipients {
    fn type_words() -> String {
        "list of recipients of age".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const MAX: usize = 16;
        const WANTED: &str = "recipients of age such as [\"age1…\"]";
        let texts = lines(raw, WANTED)?;
        if texts.len() > MAX {
            return Err(format!("names {} recipients; at most {MAX} fit", texts.len()));
        }
        for text in &texts {
            if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY") {
                // Not repeated: it is a secret.
                return Err(
                    "holds a secret key; recipients are the public ones, which begin with age1".to_owned()
                );
            }
            crate::backup::keys::recipient(text)?;
        }
        Ok(Self(texts))
    }

    fn show(&self) -> Option<String> {
        Some(toml_list(&self.0))
    }
}
