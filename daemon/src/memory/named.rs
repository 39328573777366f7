//! Decides which of two names is later, when several devices rename the same thing without reaching each
//! other.
//!
//! A row with names (a person; a conversation with its title and session id) carries the moment at which they
//! were given, as a UUIDv7. Of two versions of the row, this device and Postgres keep the names with the
//! greater moment. The order of arrival does not matter, and a repeated arrival changes nothing.
//!
//! The moment is the wall clock, but at least a millisecond after the moment of the replaced name. So a
//! device with a clock that is years behind still replaces the names it has seen. Two devices that have not
//! seen each other are ordered by their clocks alone.

use uuid::Uuid;

use super::{Result, get};
use crate::clock::Stamp;
use crate::store::Tx;

/// The first 48 bits of a UUIDv7 are milliseconds.
const MAX_MS: u64 = (1 << 48) - 1;

crate::store::sql::statements! {
    OF_USER = "SELECT named FROM users WHERE id = ?1";
    OF_CONVERSATION = "SELECT named FROM conversations WHERE rid = ?1 AND owner = ?2";
}

/// The moment of a name given now, in place of one with the moment `known`.
pub(super) fn now_after(known: &Uuid, now: &Stamp) -> Uuid {
    let wall = u64::try_from(now.wall_unix_ms).unwrap_or(0);
    at(wall.max(millis(known) + 1))
}

/// The moment of a name made by the device itself: just after `known`, so that a name given elsewhere by a
/// person since then stays.
pub(super) fn just_after(known: &Uuid) -> Uuid {
    at(millis(known) + 1)
}

/// When the person `user` got their present name, as bytes of their id.
pub(super) async fn of_user(tx: &mut Tx<'_>, user: &[u8]) -> Result<Uuid> {
    let row = tx.optional(sqlx::query(OF_USER).bind(user)).await?;
    Ok(row.map(|row| get(&row, "named")).transpose()?.unwrap_or_default())
}

/// When the conversation `rid` of `owner` got its present names.
pub(super) async fn of_conversation(tx: &mut Tx<'_>, rid: i64, owner: i64) -> Result<Uuid> {
    let row = tx.optional(sqlx::query(OF_CONVERSATION).bind(rid).bind(owner)).await?;
    Ok(row.map(|row| get(&row, "named")).transpose()?.unwrap_or_default())
}

/// The stored form of the moment.
pub(super) fn bytes(named: &Uuid) -> &[u8] {
    named.as_bytes().as_slice()
}

fn at(ms: u64) -> Uuid {
    let random = Uuid::now_v7().into_bytes();
    let mut tail = [0; 10];
    tail.copy_from_slice(&random[6..]);
    uuid::Builder::from_unix_timestamp_millis(ms.min(MAX_MS), &tail).into_uuid()
}

fn millis(named: &Uuid) -> u64 {
    named.as_bytes()[..6].iter().fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(wall_unix_ms: i64) -> Stamp {
        Stamp { wall_unix_ms, synced: true, boot_id: "boot".into(), monotonic_ns: 0 }
    }

    #[test]
    fn a_name_is_later_than_the_one_it_replaces_whatever_the_clock_says() {
        let mut known = Uuid::nil();
        for wall in [1_800_000_000_000, 1_800_000_000_000, 0, -5, i64::MIN, 1_900_000_000_000, 7] {
            let next = now_after(&known, &clock(wall));
            assert!(next > known, "{wall}");
            known = next;
            let made = just_after(&known);
            assert!(made > known && millis(&made) == millis(&known) + 1);
        }
        assert_eq!(millis(&known), 1_900_000_000_001);
    }

    #[test]
    fn of_two_that_did_not_know_of_each_other_the_one_of_the_later_clock_is_later() {
        let known = now_after(&Uuid::nil(), &clock(1_000));
        assert!(now_after(&known, &clock(6_000)) > now_after(&known, &clock(5_000)));
        assert_ne!(now_after(&known, &clock(5_000)), now_after(&known, &clock(5_000)));
    }

    #[test]
    fn a_moment_at_the_end_of_the_number_does_not_go_round() {
        let last = at(u64::MAX);
        assert_eq!(millis(&now_after(&last, &clock(i64::MAX))), MAX_MS);
        assert_eq!(millis(&just_after(&last)), MAX_MS);
    }
}
