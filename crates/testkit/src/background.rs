//! A runtime on a thread of its own, stopped and emptied when its handle is dropped.

use std::future::Future;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Runs a server's tasks apart from the test's own runtime, so that tests without one can use it and a busy
/// test does not slow the server down.
#[derive(Debug)]
pub(crate) struct Background {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts `threads` workers, named after what they serve.
    pub(crate) fn start(name: &str, threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name(name)
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(stopped.cancelled());
                // Dropping the tasks closes their sockets; a task in the blocking pool gets a moment to end.
                runtime.shutdown_timeout(Duration::from_secs(2));
            })
            .context("cannot start a thread")?;
        Ok(Self { handle, stop, thread: Some(thread) })
    }

    /// Runs a task until it ends or the handle is dropped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// The runtime's handle: entered where a socket of std is made one of tokio.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
