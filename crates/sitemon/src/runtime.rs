//! The async runtime of a command, and what it asks of the process.

use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a command to its end, on this thread.
pub fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        survive_file_limits()?;
        Ok(work.await)
    })
}

/// A file that grows past `ulimit -f` shall be an error of who writes it, as a full disk is; by default the signal that
/// comes with it ends the process. It stays caught for as long as the process lives; nobody needs to listen to it.
fn survive_file_limits() -> io::Result<()> {
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}
