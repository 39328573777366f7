//! Sealed voiceprints: opaque columns, at most one a person. `speaker::vault` seals and opens them.

use serde::Serialize;
use serde_json::json;
use sqlx::sqlite::SqliteRow;

use super::users::{consent_within, owner_rid};
use super::{Memory, MemoryError, NewAudit, Result, UserId, VoiceprintId, get};
use crate::clock::Stamp;
use crate::store::queue::{Op, enqueue, enqueue_voice_deletion};
use crate::store::{StoreError, Tx};

/// A voiceprint to store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVoiceprint {
    pub wrapped_key: Vec<u8>,
    pub blob: Vec<u8>,
    /// 64 hex digits.
    pub model_sha256: String,
    /// 64 hex digits.
    pub front_end_sha256: String,
    /// Accepted enrolment samples and their net speech.
    pub samples: u32,
    pub net_speech_s: f64,
    /// Figures per sample, without any part of the template.
    pub quality: serde_json::Value,
}

/// The data of a voiceprint that may be shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VoiceprintInfo {
    pub id: VoiceprintId,
    pub user_id: UserId,
    pub user_name: String,
    pub model_sha256: String,
    pub front_end_sha256: String,
    pub samples: u32,
    pub net_speech_s: f64,
    pub quality: serde_json::Value,
    pub created_unix_ms: i64,
}

/// A stored voiceprint, still sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Voiceprint {
    pub info: VoiceprintInfo,
    pub wrapped_key: Vec<u8>,
    pub blob: Vec<u8>,
}

crate::store::sql::statements! {
    DELETED = "SELECT 1 FROM tombstones
        WHERE (kind = 'user' AND id = ?1) OR (kind = 'voiceprint' AND user_id = ?1) LIMIT 1";
    FIND = "SELECT id FROM voiceprints WHERE owner = ?1";
    PUT = "INSERT INTO voiceprints (owner, id, wrapped_key, blob, model_sha256, front_end_sha256, samples,
            net_speech_s, quality, created_unix_ms, created_synced)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    SELECT = "SELECT v.id AS id, u.id AS user_id, u.name AS user_name, v.wrapped_key, v.blob, v.model_sha256,
            v.front_end_sha256, v.samples, v.net_speech_s, v.quality, v.created_unix_ms
        FROM voiceprints v JOIN users u ON u.rid = v.owner WHERE u.id = ?1";
    LIST = "SELECT v.id AS id, u.id AS user_id, u.name AS user_name, v.wrapped_key, v.blob, v.model_sha256,
            v.front_end_sha256, v.samples, v.net_speech_s, v.quality, v.created_unix_ms
        FROM voiceprints v JOIN users u ON u.rid = v.owner ORDER BY u.name_key";
    REWRAP = "UPDATE voiceprints SET id = ?2, wrapped_key = ?3 WHERE id = ?1";
    DELETE = "DELETE FROM voiceprints WHERE owner = ?1";
}

impl Memory {
    /// Stores the voiceprint of `user` in place of an earlier one, with the consent that enrolling implies
    /// and an audit row. It is one transaction, so that no voiceprint ever exists without consent.
    pub async fn put_voiceprint(&self, user: UserId, new: &NewVoiceprint) -> Result<VoiceprintId> {
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        let replaced = tx.optional(sqlx::query(FIND).bind(owner)).await?;
        if let Some(row) = &replaced {
            let old = VoiceprintId::read(row, "id")?;
            tx.execute(sqlx::query(DELETE).bind(owner)).await?;
            enqueue(&mut tx, Op::DeleteVoiceprint, old.0, Some(user.0), stamp.wall_unix_ms).await?;
            self.want_scrub(&mut tx, &stamp).await?;
        }
        let id = VoiceprintId::new();
        let put = sqlx::query(PUT)
            .bind(owner)
            .bind(id.bytes())
            .bind(&new.wrapped_key)
            .bind(&new.blob)
            .bind(&new.model_sha256)
            .bind(&new.front_end_sha256)
            .bind(new.samples)
            .bind(new.net_speech_s)
            .bind(new.quality.to_string())
            .bind(stamp.wall_unix_ms)
            .bind(stamp.synced);
        tx.execute(put).await?;
        enqueue(&mut tx, Op::UpsertVoiceprint, id.0, Some(user.0), stamp.wall_unix_ms).await?;
        consent_within(&mut tx, &stamp, user).await?;
        let detail = json!({ "samples": new.samples, "net_speech_s": new.net_speech_s });
        let entry = NewAudit { user: Some(user), action: "enrol", outcome: "done", detail: Some(detail) };
        self.audit_within(&mut tx, &stamp, &entry).await?;
        tx.commit().await?;
        if replaced.is_some() {
            self.scrub().await;
        }
        Ok(id)
    }

    pub async fn voiceprint(&self, user: UserId) -> Result<Option<Voiceprint>> {
        let row = self.read_optional(sqlx::query(SELECT).bind(user.bytes())).await?;
        Ok(row.as_ref().map(voiceprint_of).transpose()?)
    }

    /// Whether `user` has no voiceprint because it was deleted, here or on another device.
    pub async fn voice_was_deleted(&self, user: UserId) -> Result<bool> {
        let deleted = self.read_optional(sqlx::query(DELETED).bind(user.bytes())).await?.is_some();
        Ok(deleted && self.voiceprint(user).await?.is_none())
    }

    /// All voiceprints, by name. This is the only call that crosses people: identifying a speaker needs all
    /// of them.
    pub async fn list_voiceprints(&self) -> Result<Vec<Voiceprint>> {
        self.read_all(sqlx::query(LIST)).await?.iter().map(|row| Ok(voiceprint_of(row)?)).collect()
    }

    /// Replaces the wrapped key of every voiceprint by that of `rewrap`, all in one transaction or none.
    /// Returns the number changed. A changed one gets a new id, so that every copy under the old id is
    /// deleted.
    ///
    /// # Errors
    /// The first error of `rewrap`; then nothing is changed.
    pub async fn rewrap_voiceprints<E: From<MemoryError>>(
        &self,
        rewrap: impl Fn(&Voiceprint) -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<usize, E> {
        let (mut tx, stamp) = self.begin().await?;
        let mut changed = 0;
        for row in tx.all(sqlx::query(LIST)).await.map_err(MemoryError::from)? {
            let voiceprint = voiceprint_of(&row).map_err(MemoryError::from)?;
            let wrapped_key = rewrap(&voiceprint)?;
            if wrapped_key != voiceprint.wrapped_key {
                self.rewrap_within(&mut tx, &stamp, &voiceprint.info, &wrapped_key).await?;
                changed += 1;
            }
        }
        if changed > 0 {
            let detail = Some(json!({ "voiceprints": changed }));
            let entry = NewAudit { user: None, action: "key_rotate", outcome: "done", detail };
            self.audit_within(&mut tx, &stamp, &entry).await?;
            self.want_scrub(&mut tx, &stamp).await?;
        }
        tx.commit().await.map_err(MemoryError::from)?;
        if changed > 0 {
            self.scrub().await;
        }
        Ok(changed)
    }

    async fn rewrap_within(
        &self,
        tx: &mut Tx<'_>,
        stamp: &Stamp,
        info: &VoiceprintInfo,
        wrapped_key: &[u8],
    ) -> Result<()> {
        let (id, user) = (VoiceprintId::new(), Some(info.user_id.0));
        tx.execute(sqlx::query(REWRAP).bind(info.id.bytes()).bind(id.bytes()).bind(wrapped_key)).await?;
        enqueue(tx, Op::DeleteVoiceprint, info.id.0, user, stamp.wall_unix_ms).await?;
        enqueue(tx, Op::UpsertVoiceprint, id.0, user, stamp.wall_unix_ms).await?;
        Ok(())
    }

    /// Deletes the voiceprint of `user` and notes it in the audit log.
    ///
    /// # Errors
    /// `NotFound` if `user` has none.
    pub async fn delete_voiceprint(&self, user: UserId) -> Result<()> {
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        let row = tx.optional(sqlx::query(FIND).bind(owner)).await?;
        let row = row.ok_or_else(|| MemoryError::not_found("voiceprint of user", user))?;
        let id = VoiceprintId::read(&row, "id")?;
        tx.execute(sqlx::query(DELETE).bind(owner)).await?;
        enqueue_voice_deletion(&mut tx, id.0, user.0, stamp.wall_unix_ms).await?;
        let entry = NewAudit { user: Some(user), action: "voiceprint_delete", outcome: "done", detail: None };
        self.audit_within(&mut tx, &stamp, &entry).await?;
        self.commit_deletion(tx, &stamp).await
    }
}

fn voiceprint_of(row: &SqliteRow) -> Result<Voiceprint, StoreError> {
    let quality: String = get(row, "quality")?;
    let info = VoiceprintInfo {
        id: VoiceprintId::read(row, "id")?,
        user_id: UserId::read(row, "user_id")?,
        user_name: get(row, "user_name")?,
        model_sha256: get(row, "model_sha256")?,
        front_end_sha256: get(row, "front_end_sha256")?,
        samples: get(row, "samples")?,
        net_speech_s: get(row, "net_speech_s")?,
        quality: serde_json::from_str(&quality).unwrap_or_default(),
        created_unix_ms: get(row, "created_unix_ms")?,
    };
    Ok(Voiceprint { info, wrapped_key: get(row, "wrapped_key")?, blob: get(row, "blob")? })
}
