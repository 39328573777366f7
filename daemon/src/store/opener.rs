//! Chooses the shared voiceprints that this device can use.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::tables::VoiceprintRow;

/// The key and the model of this device. A voiceprint that they do not open is of another device and is not
/// stored. It could not be used, and it would replace the usable one.
#[derive(Clone)]
pub struct Opener {
    /// Names key and model, so that voiceprints are tried again with another key or model.
    pub name: Arc<dyn Fn() -> String + Send + Sync>,
    pub opens: Arc<dyn Fn(&VoiceprintRow) -> bool + Send + Sync>,
}

impl Opener {
    /// Returns the last voiceprint of each person that opens, in the order in which they were written, and
    /// those that it replaced.
    pub fn choose(&self, rows: Vec<VoiceprintRow>) -> (Vec<VoiceprintRow>, Vec<(Uuid, Uuid)>) {
        let mut last: BTreeMap<Uuid, VoiceprintRow> = BTreeMap::new();
        let mut superseded = Vec::new();
        for row in rows {
            if (self.opens)(&row)
                && let Some(before) = last.insert(row.owner, row)
            {
                superseded.push((before.id, before.owner));
            }
        }
        (last.into_values().collect(), superseded)
    }
}
