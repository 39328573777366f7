//! The PINs of this device: hashes by person, in the database of the device alone.
//!
//! They are a setting, not rows of their own: they are never sent to Postgres, so each device of a house has
//! its own. A PIN belongs to an enrolled voice and counts only while there is one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::memory::{Memory, MemoryError, User, UserId};
use crate::speaker::pin::{Pin, PinError};

/// Name among the settings that survive a restart.
const PINS: &str = "voice_pins";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Hashes(BTreeMap<String, String>);

#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    #[error("the PINs cannot be read or stored")]
    Memory(#[source] MemoryError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(
        "no voice of this person is enrolled, and a PIN stands in for one; `jarvisd voice enroll` comes first"
    )]
    NoVoice,
    #[error("the check was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl From<MemoryError> for PinsError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

async fn load(memory: &Memory) -> Result<Hashes, MemoryError> {
    Ok(memory.setting(PINS).await?.unwrap_or_default())
}

/// Keeps the hash of `pin` for `user`, in place of an earlier one.
///
/// # Errors
/// A PIN that is too obvious, a person without a voice, a database that does not work.
pub async fn set(memory: &Memory, user: &User, pin: &Pin) -> Result<(), PinsError> {
    if memory.voiceprint(user.id).await?.is_none() {
        return Err(PinsError::NoVoice);
    }
    let hash = pin.hash()?;
    let add = |hashes: &mut Hashes| hashes.0.insert(user.id.to_string(), hash);
    memory.update_setting(PINS, add).await?;
    Ok(())
}

/// Forgets the PIN of `user`; returns whether there was one.
///
/// # Errors
/// A database that does not work.
pub async fn clear(memory: &Memory, user: UserId) -> Result<bool, MemoryError> {
    let remove = |hashes: &mut Hashes| hashes.0.remove(&user.to_string()).is_some();
    memory.update_setting(PINS, remove).await
}

/// Forgets the PINs of people who are not known any more: they may have been deleted on another device.
///
/// # Errors
/// A database that does not work.
pub async fn prune(memory: &Memory) -> Result<(), MemoryError> {
    // Loads the PINs first: they include none of a person who is added meanwhile.
    let mut gone = load(memory).await?;
    if gone.0.is_empty() {
        return Ok(());
    }
    for user in memory.list_users().await? {
        gone.0.remove(&user.id.to_string());
    }
    if gone.0.is_empty() {
        return Ok(());
    }
    memory.update_setting(PINS, |hashes: &mut Hashes| hashes.0.retain(|id, _| !gone.0.contains_key(id))).await
}

/// Whether `user` has a PIN.
///
/// # Errors
/// A database that does not work.
pub async fn is_set(memory: &Memory, user: UserId) -> Result<bool, MemoryError> {
    Ok(load(memory).await?.0.contains_key(&user.to_string()))
}

/// The people who have a PIN.
///
/// # Errors
/// A database that does not work.
pub async fn people(memory: &Memory) -> Result<Vec<User>, MemoryError> {
    let hashes = load(memory).await?;
    let mut users = memory.list_users().await?;
    users.retain(|user| hashes.0.contains_key(&user.id.to_string()));
    Ok(users)
}

/// The person called `name`, if `pin` is theirs and their voice is enrolled. A name without a PIN takes as
/// long, so that the time does not tell who has one.
///
/// # Errors
/// See [`PinsError`]; an error lets nobody in.
pub async fn check(memory: &Memory, name: &str, pin: Pin) -> Result<Option<User>, PinsError> {
    let user = match memory.user_by_name(name).await {
        Ok(user) => Some(user),
        Err(MemoryError::NotFound { .. } | MemoryError::InvalidName { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut hash = None;
    if let Some(user) = &user
        && memory.voiceprint(user.id).await?.is_some()
    {
        hash = load(memory).await?.0.remove(&user.id.to_string());
    }
    let opens = move || match hash {
        Some(hash) => pin.opens(&hash),
        None => match pin.hash() {
            Ok(_) | Err(PinError::Obvious) => Ok(false),
            Err(error) => Err(error),
        },
    };
    let right = tokio::task::spawn_blocking(opens).await.map_err(PinsError::Interrupted)??;
    Ok(user.filter(|_| right))
}
