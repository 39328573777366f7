//! Voiceprints, sealed before they leave a device.

use uuid::Uuid;

use super::{FileTable, Spec};
use crate::store::queue::Op;

synced! {
    /// A sealed voiceprint.
    #[derive(Debug, Clone)]
    VoiceprintRow {
        id: Uuid = UUID.looked_for(),
        owner: Uuid = UUID.here("u.id").looked_for(),
        wrapped_key: Vec<u8> = BYTES.at_most(4096).looked_for().compared(),
        blob: Vec<u8> = BYTES.at_most(262_144).looked_for().compared(),
        model_sha256: String = TEXT,
        front_end_sha256: String = TEXT,
        samples: i32 = INTEGER,
        net_speech_s: f64 = DOUBLE,
        quality: String = JSON.at_most(65_536),
        created_unix_ms: i64 = TIME.there("created_at"),
        synced: bool = BOOLEAN.here("r.created_synced").there("clock_synced"),
    }
    table: Spec {
        number: "owner",
        on_conflict: "DO UPDATE SET wrapped_key = excluded.wrapped_key, blob = excluded.blob,
            origin = excluded.origin, change = excluded.change
        WHERE (t.wrapped_key, t.blob) IS DISTINCT FROM (excluded.wrapped_key, excluded.blob)",
        as_sent: "(t.wrapped_key, t.blob) = (x.wrapped_key, x.blob)",
        // Only voiceprints that wait: this device may have others, or another key.
        taken_back: false,
        ..Spec::of("voiceprints", Some("voiceprint"), Op::UpsertVoiceprint)
    };
    file: FileTable {
        key: "owner",
        columns: "owner id wrapped_key blob model_sha256 front_end_sha256 samples net_speech_s quality
            created_unix_ms created_synced",
        shape: "rubbttintif",
        ..FileTable::of("voiceprints")
    };
    fn owner(&self) -> Option<Uuid> {
        Some(self.owner)
    }
}
