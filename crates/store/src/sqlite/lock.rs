//! One writer at a time: locks that the kernel gives up with the process.
//!
//! One on a file beside the database, which also names the holder; and one on the database itself, which is the same by
//! whatever name it is reached, and stays when the file beside it is removed. Both are those of flock(2): the database's
//! own, those of fcntl(2), come and go with each transaction and know nothing of them, so readers and the tools that come
//! with it do not count. Closing *any* descriptor of a file drops the process's locks of fcntl(2), though, so that of the
//! database is kept for as long as somebody has a connection ([`Lock::database`]).

use crate::StoreError;
use rustix::fs::{FlockOperation, flock, fstat, fstatfs};
use rustix::io::Errno;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    beside: File,
    /// `None` where it cannot be opened.
    database: Option<Arc<File>>,
}

impl Lock {
    /// The database's descriptor, to be closed after the last connection of this process.
    pub(super) fn database(&self) -> Option<Arc<File>> {
        self.database.clone()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the files would do, if no other thread were just starting a program, which has them until then too.
        if let Some(database) = &self.database {
            let _ = flock(database, FlockOperation::Unlock);
        }
        let _ = flock(&self.beside, FlockOperation::Unlock);
    }
}

/// How often, and how long apart, a lock is tried again whose holder is ending, or has not written its name yet.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// File systems over a network that make locks of fcntl(2) out of those of flock(2): NFS, the three of SMB, 9P.
const OVER_NETWORK: [u32; 5] = [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997];

/// The commands that write, as they are called.
const COMMANDS: [&str; 5] = ["run", "writer", "worker", "compact", "migrate"];

/// The lock's file: the database's path with `.lock` at the end, the same by whichever symbolic link it is reached.
fn path_of(database: &Path) -> PathBuf {
    let mut name = database.canonicalize().unwrap_or_else(|_| database.to_owned()).into_os_string();
    name.push(".lock");
    name.into()
}

/// Takes the lock for `command`, or says who has it.
pub(super) fn take(database: &Path, command: &str) -> Result<Lock, StoreError> {
    let beside = take_beside(database, command)?;
    Ok(Lock { beside, database: take_database(database)? })
}

/// Takes the lock on the file beside the database.
fn take_beside(database: &Path, command: &str) -> Result<File, StoreError> {
    let path = path_of(database);
    let refused = |error: std::io::Error| {
        let told = format!("cannot write {}: {error}", path.display());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                StoreError::Unavailable(told)
            }
            _ => StoreError::Unusable(told),
        }
    };
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(refused)?;
    for _ in 0..LOOKS {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let text = format!("{} {command}\n", std::process::id());
                // Over what is there, so that a full disk has room for it.
                file.rewind()
                    .and_then(|()| file.write_all(text.as_bytes()))
                    .and_then(|()| file.set_len(text.len() as u64))
                    .map_err(refused)?;
                return Ok(file);
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(refused(error.into())),
        }
        let mut text = String::new();
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
        if let Some((pid, command)) = text.lines().next().and_then(|line| line.split_once(' '))
            && let Ok(pid) = pid.parse()
            && alive(pid)
        {
            return Err(StoreError::Held { path: database.to_owned(), command: command.to_owned(), pid });
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Err(StoreError::Unavailable(format!("{} is locked by a process that did not write its name", path.display())))
}

/// Takes the lock on the database itself; makes an empty file where there is none yet. What is wrong with the file is
/// told by who opens it as a database.
fn take_database(database: &Path) -> Result<Option<Arc<File>>, StoreError> {
    let Ok(file) = File::options().read(true).write(true).create(true).truncate(false).open(database) else {
        return Ok(None);
    };
    let over_network = fstatfs(&file).is_ok_and(|found| OVER_NETWORK.contains(&(found.f_type as u32)));
    let file = Arc::new(file);
    if over_network {
        // Not locked, but closed no earlier than the connections all the same.
        return Ok(Some(file));
    }
    for _ in 0..LOOKS {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOOK_EVERY),
            // Taken, or one of a file system without such locks.
            Ok(()) | Err(_) => return Ok(Some(file)),
        }
    }
    match holder(&file) {
        Some((pid, command)) => Err(StoreError::Held { path: database.to_owned(), command, pid }),
        None => {
            Err(StoreError::Unusable(format!("{} is in use by another process that writes it", database.display())))
        }
    }
}

/// Who has locked a file, as the kernel tells it: the process and its command. Where the lock's own file is gone, or
/// stands beside another name of the database, it is not there to be asked.
fn holder(file: &File) -> Option<(u32, String)> {
    let number = fstat(file).ok()?.st_ino.to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 4711 08:01:131090 0 EOF`; who waits for it has `->` before its kind.
    let pid = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, of, ..] = words[..] else { return None };
        (of.rsplit(':').next() == Some(&*number)).then(|| pid.parse().ok()).flatten()
    })?;
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments);
    let command = arguments.split('\0').find(|argument| COMMANDS.contains(argument)).unwrap_or("run");
    Some((pid, command.to_owned()))
}

/// Whether the process exists; the name of a dead one is still in the file until its successor writes its own.
fn alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(Errno::SRCH))
}
