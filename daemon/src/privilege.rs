//! Root acts as the owner of the data folder.
//!
//! The daemon cannot open a file that root makes there (a lock, a log of the database, a restored database).
//! So a command that root runs takes the user and the groups of the owner before anything is opened. It keeps
//! the capability to read what root may read (a password file, a recording in somebody's home). A command
//! that works with the caller's files also keeps those to write where root may. So it can make a file or a
//! folder anywhere, and the owner owns it. Programs that it starts get none of them.
//!
//! Everything here runs before the first thread is started.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::config::Paths;
use crate::durable;

/// The account of an installed device (`systemd/jarvis.sysusers`).
const ACCOUNT: &CStr = c"jarvis";

/// The capabilities that root keeps when it becomes the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Reading. The folder of the data is made first where it is missing, if `true`.
    Reading { folder: bool },
    /// Reading and writing wherever the caller may, for commands whose files the caller names.
    Files,
}

/// The owner of the data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    uid: u32,
    gid: u32,
    /// `None`: a number without an account.
    name: Option<CString>,
    home: PathBuf,
}

/// The caller's ids, if root became another user: the caller gets the files that it named.
static CALLER: OnceLock<(u32, u32)> = OnceLock::new();

/// Becomes the owner of the data folder, if root runs this and somebody else owns it.
///
/// # Errors
/// A sentence with the command to type, where the user cannot be changed.
pub fn act_as_owner(paths: &Paths, root_is_named: bool, keep: Keep) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(owner) = owner_of(paths, root_is_named) else { return Ok(()) };
    become_user(&owner, keep, paths).map_err(|e| {
        let who = match &owner.name {
            Some(name) => name.to_string_lossy().into_owned(),
            None => format!("#{}", owner.uid),
        };
        format!(
            "{} belongs to {who}, and root cannot act as that user ({e}): run `sudo -u {who} jarvisd …`",
            paths.data.display()
        )
    })
}

/// Gives a file made at a path of the caller to the caller.
///
/// # Errors
/// Those of the file system.
pub fn hand_over(file: &File) -> io::Result<()> {
    match CALLER.get() {
        Some((uid, gid)) => std::os::unix::fs::fchown(file, Some(*uid), Some(*gid)),
        None => Ok(()),
    }
}

/// The owner of the data: the folder's owner, else that of the backups, else the account of an installed
/// device, else the owner of the nearest folder above. `None` if that is root.
fn owner_of(paths: &Paths, root_is_named: bool) -> Option<Owner> {
    let of = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.uid(), meta.gid()));
    let ids = match of(&paths.data) {
        Some(ids) => ids,
        None => {
            let installed = || account(|buffer| by_name(ACCOUNT, buffer)).filter(|_| !root_is_named);
            match of(&paths.backups).filter(|(uid, _)| *uid != 0) {
                Some(ids) => ids,
                None => match installed() {
                    Some(owner) => return Some(owner),
                    None => paths.data.ancestors().find_map(of)?,
                },
            }
        }
    };
    let (uid, gid) = ids;
    if uid == 0 {
        return None;
    }
    let known = account(|buffer| by_uid(uid, buffer));
    Some(known.unwrap_or_else(|| Owner { uid, gid, name: None, home: paths.data.clone() }))
}

fn become_user(owner: &Owner, keep: Keep, paths: &Paths) -> io::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u32>().ok());
    let caller = (number("SUDO_UID").unwrap_or(0), number("SUDO_GID").unwrap_or(0));
    rustix::thread::set_keep_capabilities(true)?;
    let ok = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    #[expect(unsafe_code, reason = "rustix changes the ids of one thread and does not know accounts")]
    // SAFETY: each takes numbers or a string that lives for the whole call; there are no other threads yet.
    unsafe {
        match &owner.name {
            Some(name) => ok(libc::initgroups(name.as_ptr(), owner.gid))?,
            None => ok(libc::setgroups(1, &raw const owner.gid))?,
        }
        ok(libc::setgid(owner.gid))?;
        ok(libc::setuid(owner.uid))?;
    }
    // The user is another one by now: a failure from here on only leaves fewer rights.
    let files = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::CHOWN;
    let held = rustix::thread::capabilities(None)?.permitted;
    only(held & files)?;
    if let Keep::Reading { folder } = keep {
        if folder {
            durable::create_folder(&paths.data)?;
        }
        only(held & CapabilitySet::DAC_READ_SEARCH)?;
    }
    rustix::thread::set_keep_capabilities(false)?;
    let _ = CALLER.set(caller);
    let name = owner.name.as_ref().map(|name| OsStr::from_bytes(name.to_bytes()));
    #[expect(
        unsafe_code,
        reason = "the environment of the programs that are started, and our own search for models"
    )]
    // SAFETY: there are no other threads that could read the environment meanwhile.
    unsafe {
        std::env::set_var("HOME", &owner.home);
        for variable in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
            std::env::remove_var(variable);
        }
        for variable in ["USER", "LOGNAME"] {
            match name {
                Some(name) => std::env::set_var(variable, name),
                None => std::env::remove_var(variable),
            }
        }
    }
    Ok(())
}

/// Keeps these capabilities and no other. A started program inherits none.
fn only(kept: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Where the C library writes an account.
struct Buffer {
    entry: libc::passwd,
    text: Vec<libc::c_char>,
}

/// The account that `find` finds; `find` returns the result of `getpwnam_r`, whether there is one.
fn account(find: impl FnOnce(&mut Buffer) -> bool) -> Option<Owner> {
    #[expect(unsafe_code, reason = "a struct of numbers and pointers of the C library")]
    // SAFETY: all bits zero is a value of each of its fields.
    let entry = unsafe { std::mem::zeroed() };
    let mut buffer = Buffer { entry, text: vec![0; 16 << 10] };
    if !find(&mut buffer) {
        return None;
    }
    #[expect(unsafe_code, reason = "strings of the C library")]
    // SAFETY: the call found an account, so both point to strings that end, within `buffer.text`.
    let (name, home) = unsafe { (CStr::from_ptr(buffer.entry.pw_name), CStr::from_ptr(buffer.entry.pw_dir)) };
    Some(Owner {
        uid: buffer.entry.pw_uid,
        gid: buffer.entry.pw_gid,
        name: Some(name.to_owned()),
        home: std::ffi::OsString::from_vec(home.to_bytes().to_vec()).into(),
    })
}

fn by_uid(uid: u32, buffer: &mut Buffer) -> bool {
    let mut found = std::ptr::null_mut();
    let Buffer { entry, text } = buffer;
    #[expect(unsafe_code, reason = "no safe wrapper in our crates")]
    // SAFETY: every pointer is to a value that outlives the call, and the length is that of the buffer.
    let result = unsafe { libc::getpwuid_r(uid, entry, text.as_mut_ptr(), text.len(), &raw mut found) };
    result == 0 && !found.is_null()
}

fn by_name(name: &CStr, buffer: &mut Buffer) -> bool {
    let mut found = std::ptr::null_mut();
    let Buffer { entry, text } = buffer;
    #[expect(unsafe_code, reason = "no safe wrapper in our crates")]
    // SAFETY: every pointer is to a value that outlives the call, and the length is that of the buffer.
    let result =
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, text.as_mut_ptr(), text.len(), &raw mut found) };
    result == 0 && !found.is_null()
}
