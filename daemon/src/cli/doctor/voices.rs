//! Checks that the enrolled voices open: each is unsealed, none is compared or shown.

use std::collections::BTreeMap;

use super::Finding;
use super::checks::{REINSTALL, look_only};
use crate::app::Settings;
use crate::backup::way_back;
use crate::cli::output;
use crate::error::chain;
use crate::inference::ModelStore;
use crate::memory::Voiceprint;
use crate::speaker::vault::KeySources;
use crate::speaker::{Calibration, SealedVoiceprint, Vault, VaultError};

const CHECK: &str = "voiceprints";
const RESTORE: &str = "put back the voiceprint.key that the voices were sealed with, from your copy; without \
                       one, delete the voices (`jarvisd voice delete`) and enrol them again";

/// Opens every voiceprint with the key of this process. Nothing is made: no database, no key.
pub async fn voices(settings: &Settings) -> Vec<Finding> {
    const NOBODY: &str = "nobody is enrolled; `jarvisd voice enroll` does that";
    if way_back::missing(&settings.backups()).await.is_ok_and(|missing| missing.is_some()) {
        // The check of the database says so.
        return Vec::new();
    }
    if !settings.paths.db.exists() {
        return vec![Finding::ok(CHECK, NOBODY)];
    }
    let Ok(memory) = look_only(settings).await else {
        // The check of the database says why.
        return Vec::new();
    };
    let listed = memory.list_voiceprints().await;
    memory.close().await;
    let voiceprints = match listed {
        Ok(voiceprints) if voiceprints.is_empty() => return vec![Finding::ok(CHECK, NOBODY)],
        Ok(voiceprints) => voiceprints,
        Err(e) => return vec![Finding::fail(CHECK, chain(&e), "the check of the database says what to do")],
    };
    // The calibration names the speaker model that voices must have been made with. The check of the models
    // shows that it is the installed one.
    let identity = match ModelStore::open(&settings.paths.models) {
        Ok(store) => Calibration::load(&store).map(|calibration| calibration.identity().clone()),
        Err(e) => return vec![Finding::fail(CHECK, chain(&e), REINSTALL)],
    };
    let identity = match identity {
        Ok(identity) => identity,
        Err(e) => return vec![Finding::fail(CHECK, chain(&e), "the check of the models says what to do")],
    };
    let sources = KeySources {
        credentials_dir: settings.paths.credentials.clone(),
        key_file: settings.paths.key.clone(),
    };
    match Vault::open_existing(&sources, identity) {
        Ok(vault) => examine(&vault, voiceprints),
        Err(e @ VaultError::KeySize { .. }) => vec![Finding::fail(CHECK, chain(&e), RESTORE)],
        Err(e) => vec![Finding::fail(
            CHECK,
            chain(&e),
            "the message says what to do; run this as the user of the daemon",
        )],
    }
}

fn examine(vault: &Vault, voiceprints: Vec<Voiceprint>) -> Vec<Finding> {
    let all = voiceprints.len();
    let mut open = Vec::new();
    // One line a reason, not a person: a wrong key is one problem.
    let mut shut: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
    for voiceprint in voiceprints {
        let sealed = SealedVoiceprint::from(&voiceprint);
        let info = voiceprint.info;
        match vault.open_sealed(&info.user_id.to_string(), &sealed) {
            Ok(_) => open.push(info.user_name),
            Err(e) => {
                let of_key = matches!(e, VaultError::WrongKey);
                shut.entry((of_key, chain(&e))).or_default().push(info.user_name);
            }
        }
    }
    let mut findings = Vec::new();
    if !open.is_empty() {
        findings.push(Finding::ok(CHECK, format!("{} of {all} open: {}", open.len(), open.join(", "))));
    }
    for ((of_key, why), names) in shut {
        let fix = if of_key {
            RESTORE.to_owned()
        } else {
            let who = names.first().map_or("", String::as_str);
            format!("`jarvisd voice enroll --user {} …` makes a new one", output::shell_word(who))
        };
        let message = format!("{} of {all} cannot be used ({}): {why}", names.len(), names.join(", "));
        findings.push(Finding::fail(CHECK, message, fix));
    }
    findings
}
