//! Finds people and voices that are gone although nobody deleted them, by their remaining rows.
//!
//! A deletion leaves a row in the audit log or a tombstone. Rows missing without either were removed from the
//! file behind the program's back. A missing person without remaining rows cannot be detected if others are
//! left.

use super::{Memory, Result, get};

/// People and voices missing in a sound file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Owners of rows who are not among the people.
    pub people: u32,
    /// Whether nobody is known although somebody was.
    pub everybody: bool,
    /// Enrolled people without a voiceprint.
    pub voices: Vec<String>,
}

crate::store::sql::statements! {
    PEOPLE = "SELECT count(*) AS n FROM (SELECT owner FROM conversations UNION SELECT owner FROM voiceprints
            UNION SELECT owner FROM audit WHERE owner IS NOT NULL)
        WHERE owner NOT IN (SELECT rid FROM users)";
    /// Selects a row if nobody is known and nobody was deleted; the column says whether somebody was
    /// enrolled.
    NOBODY = "SELECT EXISTS (SELECT 1 FROM audit WHERE action = 'enrol') AS enrolled
        WHERE NOT EXISTS (SELECT 1 FROM users)
            AND NOT EXISTS (SELECT 1 FROM tombstones WHERE kind = 'user')
            AND NOT EXISTS (SELECT 1 FROM audit WHERE action = 'user_delete')";
    VOICES = "SELECT u.name FROM users u
        WHERE NOT EXISTS (SELECT 1 FROM voiceprints v WHERE v.owner = u.rid)
            AND NOT EXISTS (SELECT 1 FROM tombstones t WHERE t.kind = 'voiceprint' AND t.user_id = u.id)
            AND (SELECT a.action FROM audit a WHERE a.owner = u.rid AND a.action IN ('enrol',
                'voiceprint_delete') ORDER BY a.rid DESC LIMIT 1) = 'enrol'
        ORDER BY u.name_key";
}

impl Memory {
    /// Finds people and voices that are gone although nobody deleted them.
    pub async fn lost(&self) -> Result<Lost> {
        let mut lost = Lost::default();
        if let Some(row) = self.read_optional(sqlx::query(PEOPLE)).await? {
            lost.people = get(&row, "n")?;
        }
        if let Some(row) = self.read_optional(sqlx::query(NOBODY)).await? {
            let enrolled: bool = get(&row, "enrolled")?;
            lost.everybody = enrolled || self.store.is_marked();
        }
        for row in self.read_all(sqlx::query(VOICES)).await? {
            lost.voices.push(get(&row, "name")?);
        }
        Ok(lost)
    }
}

impl Lost {
    /// A clause about the missing people and voices; `None` if there are none.
    pub fn sentence(&self) -> Option<String> {
        let people = match self.people {
            0 if self.everybody => Some("nobody is known, and somebody was".to_owned()),
            0 => None,
            1 => Some("rows of a person are there who is not known any more".to_owned()),
            n => Some(format!("rows of {n} people are there who are not known any more")),
        };
        let voices = match self.voices.as_slice() {
            [] => None,
            names => Some(format!("the voiceprints of {} are gone", names.join(", "))),
        };
        let missing: Vec<String> = people.into_iter().chain(voices).collect();
        (!missing.is_empty()).then(|| missing.join("; "))
    }
}
