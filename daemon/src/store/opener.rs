//! Which of the shared voiceprints this device can use.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::tables::VoiceprintRow;

/// The key and the model of this device. A voiceprint that they do not open is of another device and is not
/// stored: it could not be used, and it would take the place of the one that can.
#[derive(Clone)]
pub struct Opener {
    /// Names both, so that voiceprints are looked at again once another key or model is there.
    pub name: Arc<dyn Fn() -> String + Send + Sync>,
    pub opens: Arc<dyn Fn(&VoiceprintRow) -> bool + Send + Sync>,
}

impl Opener {
    /// Of the voiceprints of each person that open, in the order in which they were written, the last one,
    /// and those that it took the place of.
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
