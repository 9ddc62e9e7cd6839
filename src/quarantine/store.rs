//! The state on disk: two slot files, each a whole state, so that a torn or rotten one leaves the other.
//!
//! `quarantine.a` and `quarantine.b` in the state directory; 0600. The space is allocated before it is needed, so that
//! a full disk cannot keep a decision from being written (copy-on-write file systems such as btrfs promise less). A
//! file appears under its name only when it holds a valid state, so a slot without one is always damage.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags};

use super::stored::{SCHEMA, Stored};

/// The slot files, A and B.
const SLOTS: [&str; 2] = ["quarantine.a", "quarantine.b"];
/// First bytes of a slot; the digits are the layout of the header.
const MAGIC: &[u8; 8] = b"EWQSLOT1";
/// Magic, generation, payload length (64 bit each, little endian), CRC-32 of the two and the payload.
const HEADER: usize = 28;
/// Space allocated at first and the step it grows by; about 500 quarantined things.
const STEP: u64 = 256 * 1024;
/// The largest file read: far more than the bound on things with state can need.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something else stands where a slot file belongs.
    #[error("{path} is {what}; it must be a regular file of this user that nobody else can write")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No slot holds a state, and at least one should. Who is quarantined is not known: it is not nobody.
    #[error(
        "the quarantine state is lost ({}); devices the kernel still cuts off stay cut off as `recovered` until the \
         operator releases them", .0.join("; ")
    )]
    Lost(Vec<String>),
    /// Written by a later version.
    #[error(
        "{path} has schema version {found}, this version knows {SCHEMA}; install the newer version again, or release \
         every thing with it, run `edge-warden purge`, and then install this one"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: u64,
    },
    /// The state cannot be written as JSON, or is too large.
    #[error("cannot write the quarantine state as JSON")]
    Encode(#[source] serde_json::Error),
    /// The state is larger than a slot may be.
    #[error("the quarantine state takes {0} bytes (at most {MOST_BYTES})")]
    TooLarge(usize),
}

/// What was found on disk.
#[derive(Debug)]
pub struct Loaded {
    /// The newest state; `None` on a first start.
    pub stored: Option<Stored>,
    /// What is wrong with the other slot, if anything is. The state may then be one write old: whatever the kernel
    /// holds beyond it is to be kept as [`super::Event::Recovered`].
    pub damage: Option<String>,
}

/// How far a write got.
#[derive(Debug)]
pub enum Saved {
    /// Both slots hold the state.
    Both,
    /// One does, which is enough to survive a crash; why the other does not.
    One(StoreError),
}

/// The slot files of one state directory, open for writing.
#[derive(Debug)]
pub struct Store {
    slots: [(PathBuf, File); 2],
    /// The slot to write first: the older or damaged one.
    next: usize,
    generation: u64,
}

/// What one slot holds.
enum Slot {
    Missing,
    Damaged(String),
    Valid { generation: u64, stored: Box<Stored> },
}

impl Store {
    /// Read the state without touching it.
    ///
    /// # Errors
    /// [`StoreError::Lost`] when there was a state and none can be read; never an empty state instead.
    pub fn read(directory: &Path) -> Result<Loaded, StoreError> {
        Ok(read_slots(directory)?.0)
    }

    /// Read the state and open the slots for writing, creating what is missing.
    ///
    /// # Errors
    /// As [`Store::read`], and when the slots cannot be created.
    pub fn open(directory: &Path) -> Result<(Self, Loaded), StoreError> {
        let (loaded, generations) = read_slots(directory)?;
        let [a, b] = generations;
        let generation = a.max(b).unwrap_or(0);
        let state = loaded.stored.clone().unwrap_or_else(Stored::nobody);
        // the older one is written first; a damaged or missing one is older than any
        let next = usize::from(a > b);
        let open = |slot: usize, has: Option<u64>| {
            let path = slot_path(directory, slot);
            let file = if has.is_some() || path.symlink_metadata().is_ok() {
                open_slot(&path, OFlags::RDWR)?
            } else {
                create(directory, &path, &encode(generation, &state)?)?
            };
            Ok((path, file))
        };
        let slots = [open(0, a)?, open(1, b)?];
        let store = Self {
            slots,
            next,
            generation,
        };
        Ok((store, loaded))
    }

    /// After [`StoreError::Lost`]: put the damaged files aside (`.damaged`) and begin with nobody. Only for a caller
    /// that keeps what the kernel holds.
    ///
    /// # Errors
    /// When the files cannot be renamed or created.
    pub fn start_over(directory: &Path) -> Result<Self, StoreError> {
        for slot in 0..SLOTS.len() {
            let path = slot_path(directory, slot);
            match std::fs::rename(
                &path,
                path.with_extension(if slot == 0 { "a.damaged" } else { "b.damaged" }),
            ) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("rename", &path, source));
                }
                _ => {}
            }
        }
        Ok(Self::open(directory)?.0)
    }

    /// Write the state into both slots, one after the other; each is synced before the next is touched.
    ///
    /// # Errors
    /// When the first slot cannot be written: the second still holds the state before.
    pub fn save(&mut self, stored: &Stored) -> Result<Saved, StoreError> {
        let generation = self.generation.saturating_add(1);
        let bytes = encode(generation, stored)?;
        let [a, b] = &self.slots;
        let (first, second) = if self.next == 0 { (a, b) } else { (b, a) };
        write(first, &bytes)?;
        self.generation = generation;
        self.next = 1 - self.next;
        match write(second, &bytes) {
            Ok(()) => Ok(Saved::Both),
            Err(error) => Ok(Saved::One(error)),
        }
    }
}

fn slot_path(directory: &Path, slot: usize) -> PathBuf {
    directory.join(SLOTS.get(slot).unwrap_or(&SLOTS[0]))
}

fn io_error(action: &'static str, path: &Path, source: impl Into<io::Error>) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The state of both slots together, and the generation of each valid one.
fn read_slots(directory: &Path) -> Result<(Loaded, [Option<u64>; 2]), StoreError> {
    let mut damage = Vec::new();
    let mut missing = 0;
    let mut newest: Option<(u64, Stored)> = None;
    let mut generations = [None; 2];
    for (slot, known) in generations.iter_mut().enumerate() {
        let path = slot_path(directory, slot);
        match read_slot(&path)? {
            Slot::Missing => {
                missing += 1;
                damage.push(format!("{} is missing", path.display()));
            }
            Slot::Damaged(why) => damage.push(format!("{}: {why}", path.display())),
            Slot::Valid { generation, stored } => {
                *known = Some(generation);
                if newest.as_ref().is_none_or(|(best, _)| generation > *best) {
                    newest = Some((generation, *stored));
                }
            }
        }
    }
    let loaded = match newest {
        Some((_, stored)) => Loaded {
            stored: Some(stored),
            damage: (!damage.is_empty()).then(|| damage.join("; ")),
        },
        None if missing == SLOTS.len() => Loaded {
            stored: None,
            damage: None,
        },
        None => return Err(StoreError::Lost(damage)),
    };
    Ok((loaded, generations))
}

fn read_slot(path: &Path) -> Result<Slot, StoreError> {
    let file = match open_slot(path, OFlags::RDONLY) {
        Ok(file) => file,
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(Slot::Missing),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    if let Err(error) = file.take(MOST_BYTES).read_to_end(&mut bytes) {
        return Ok(Slot::Damaged(format!("cannot be read: {error}"))); // a bad sector: the other slot may do
    }
    decode(path, &bytes)
}

/// Header and payload of one generation.
fn encode(generation: u64, stored: &Stored) -> Result<Vec<u8>, StoreError> {
    let payload = serde_json::to_vec(stored).map_err(StoreError::Encode)?;
    let too_large = || StoreError::TooLarge(payload.len());
    let length = u64::try_from(payload.len()).map_err(|_| too_large())?;
    if length >= MOST_BYTES - STEP {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(generation, length, &payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

fn checksum(generation: u64, length: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&generation.to_le_bytes());
    crc.update(&length.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Slot, StoreError> {
    match decode_payload(bytes) {
        Err(why) => Ok(Slot::Damaged(why.to_owned())),
        Ok((generation, payload)) => decode_state(path, generation, payload),
    }
}

/// For `fuzz/`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let path = Path::new("slot");
    let _ = decode(path, data);
    let _ = decode_state(path, 1, data);
}

fn decode_payload(bytes: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let short = "it is too short";
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(short)?;
    let (generation, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
    if magic != MAGIC {
        return Err("it does not begin as a state does");
    }
    let (generation, length) = (u64::from_le_bytes(*generation), u64::from_le_bytes(*length));
    let payload = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or(short)?;
    if checksum(generation, length, payload) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong");
    }
    Ok((generation, payload))
}

/// An intact payload: of a newer layout it is refused, not read half.
fn decode_state(path: &Path, generation: u64, payload: &[u8]) -> Result<Slot, StoreError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u64,
    }
    match serde_json::from_slice::<Version>(payload) {
        Ok(Version { schema_version }) if schema_version > u64::from(SCHEMA) => Err(StoreError::NewerSchema {
            path: path.to_owned(),
            found: schema_version,
        }),
        Ok(_) => Ok(match serde_json::from_slice(payload) {
            Ok(stored) => Slot::Valid {
                generation,
                stored: Box::new(stored),
            },
            Err(error) => Slot::Damaged(format!("it is no state: {error}")),
        }),
        Err(error) => Ok(Slot::Damaged(format!("it has no schema version: {error}"))),
    }
}

/// Open a slot that exists; refuses links, devices and files others could have put there.
fn open_slot(path: &Path, access: OFlags) -> Result<File, StoreError> {
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let not_ours = |what| StoreError::NotOurs {
        path: path.to_owned(),
        what,
    };
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(not_ours("a symbolic link")),
        Err(errno) => return Err(io_error("open", path, errno)),
    };
    let metadata = file.metadata().map_err(|source| io_error("inspect", path, source))?;
    if !metadata.is_file() {
        return Err(not_ours("no regular file"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(not_ours("another user's file"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(not_ours("writable for others"));
    }
    Ok(file)
}

/// Create a slot that holds `bytes` from the first moment it has its name.
fn create(directory: &Path, path: &Path, bytes: &[u8]) -> Result<File, StoreError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &fresh, source)),
        _ => {}
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(&fresh, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| io_error("create", &fresh, errno))?;
    let slot = (fresh, File::from(file));
    write(&slot, bytes)?;
    let (fresh, file) = slot;
    std::fs::rename(&fresh, path).map_err(|source| io_error("rename", &fresh, source))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error("sync", directory, source))?;
    Ok(file)
}

/// Write one generation over what a slot held before, and wait until the disk has it.
fn write((path, file): &(PathBuf, File), bytes: &[u8]) -> Result<(), StoreError> {
    let needed = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let size = file
        .metadata()
        .map_err(|source| io_error("inspect", path, source))?
        .len();
    if needed > size {
        // room for as much again, so that growing is rare and done while there is space
        let target = needed.saturating_mul(2).div_ceil(STEP).saturating_mul(STEP);
        allocate(file, target.min(MOST_BYTES)).map_err(|source| io_error("allocate space for", path, source))?;
    }
    file.write_all_at(bytes, 0)
        .map_err(|source| io_error("write", path, source))?;
    file.sync_all().map_err(|source| io_error("sync", path, source))
}

fn allocate(file: &File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        // file systems without it (NFS, some flash ones): zeros written past the end take the space as well
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = [0_u8; 4096];
            let mut at = file.metadata()?.len();
            while at < size {
                let step = usize::try_from(size - at).map_or(zeros.len(), |left| left.min(zeros.len()));
                let chunk = zeros.get(..step).unwrap_or(&zeros);
                file.write_all_at(chunk, at)?;
                at = at.saturating_add(u64::try_from(step).unwrap_or(u64::MAX));
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests;
