//! One writer at a time: a lock on a file beside the database, which the kernel gives up with the process.
//!
//! Not on the database itself: its own locks come and go with each transaction, and readers and the tools that
//! come with it shall not count.

use crate::StoreError;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would do, if no other thread were just starting a program, which has it until then too.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// How often, and how long apart, the holder's name is looked for where it is not written yet.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The lock of a database: its path with `.lock` at the end, the same by whichever link it is reached.
fn path_of(database: &Path) -> PathBuf {
    let mut name = database.canonicalize().unwrap_or_else(|_| database.to_owned()).into_os_string();
    name.push(".lock");
    name.into()
}

/// Takes the lock for `command`, or says who has it.
pub(super) fn take(database: &Path, command: &str) -> Result<Lock, StoreError> {
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
                return Ok(Lock(file));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {}
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

/// Whether the process exists; the name of a dead one is still in the file until its successor writes its own.
fn alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}
