//! A store that is slow, fails, and comes back, around any other: for tests of whoever uses a store.

use crate::{
    Advance, Measures, Page, RollupQuery, Run, RunStart, Scan, SiteRecord, SiteRollup, Store, StoreError, Upkeep,
    Upkept, Window,
};
use async_trait::async_trait;
use sitemon_model::{Observation, Timestamp};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;
use tokio::task::coop::unconstrained;

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// It takes so long before anything is done.
    pub before: Duration,
    /// Whether it fails, and when.
    pub failure: Option<Failure>,
    /// It takes so long after everything was done.
    pub after: Duration,
}

/// When a call fails; it is [`StoreError::Unavailable`] either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was done.
    Before,
    /// All was done; only the answer got lost.
    After,
}

/// Decides on each call: its number, from 0, and the name of the method.
pub type Fates = dyn Fn(u64, &'static str) -> Fate + Send + Sync;

/// See the module.
pub struct Faulty {
    inner: Arc<dyn Store>,
    fates: Box<Fates>,
    /// Calls made.
    calls: AtomicU64,
    at_once: bool,
}

impl Faulty {
    /// Around this store.
    pub fn new(inner: Arc<dyn Store>, fates: impl Fn(u64, &'static str) -> Fate + Send + Sync + 'static) -> Self {
        Self { inner, fates: Box::new(fates), calls: AtomicU64::new(0), at_once: false }
    }

    /// The store's own work takes no time: the thread that asks stands still meanwhile. In a simulation nothing
    /// depends then on how fast the store's threads are.
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { at_once: true, ..self }
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    async fn call<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fate = (self.fates)(self.calls.fetch_add(1, Ordering::Relaxed), method);
        let failed = |when| Err(StoreError::Unavailable(format!("{method} fails {when}, as it was told to")));
        pause(fate.before).await;
        if fate.failure == Some(Failure::Before) {
            return failed("before anything is done");
        }
        let done = if self.at_once { block_on(work) } else { work.await };
        pause(fate.after).await;
        match fate.failure {
            Some(_) if done.is_ok() => failed("after all was done"),
            _ => done,
        }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Polls a future to its end on this thread, whatever runtime it is in.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    // A task's budget would have it wait for its runtime, which stands still.
    let mut work = pin!(unconstrained(work));
    loop {
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).field("calls", &self.calls).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Faulty {
    async fn append(&self, batch: Vec<Arc<Observation>>, advance: Option<Advance>) -> Result<(), StoreError> {
        self.call("append", self.inner.append(batch, advance)).await
    }

    async fn position(&self, source: &str) -> Result<u64, StoreError> {
        self.call("position", self.inner.position(source)).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, StoreError> {
        self.call("scan", self.inner.scan(scan)).await
    }

    async fn latest(&self) -> Result<Vec<Arc<Observation>>, StoreError> {
        self.call("latest", self.inner.latest()).await
    }

    async fn rollups(&self, query: &RollupQuery) -> Result<Vec<SiteRollup>, StoreError> {
        self.call("rollups", self.inner.rollups(query)).await
    }

    async fn summary(&self, query: &Window) -> Result<Vec<SiteRollup>, StoreError> {
        self.call("summary", self.inner.summary(query)).await
    }

    async fn since(&self, of: &[(Arc<str>, Arc<str>)]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.call("since", self.inner.since(of)).await
    }

    async fn sites(&self) -> Result<Vec<SiteRecord>, StoreError> {
        self.call("sites", self.inner.sites()).await
    }

    async fn save_sites(&self, origin: &str, sites: Vec<SiteRecord>) -> Result<(), StoreError> {
        self.call("save_sites", self.inner.save_sites(origin, sites)).await
    }

    async fn maintain(&self, upkeep: Upkeep) -> Result<Upkept, StoreError> {
        self.call("maintain", self.inner.maintain(upkeep)).await
    }

    async fn begin_run(&self, run: &RunStart) -> Result<i64, StoreError> {
        self.call("begin_run", self.inner.begin_run(run)).await
    }

    async fn touch_run(&self, run: i64, at: Timestamp, ended: Option<&str>) -> Result<(), StoreError> {
        self.call("touch_run", self.inner.touch_run(run, at, ended)).await
    }

    async fn runs(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Run>, StoreError> {
        self.call("runs", self.inner.runs(from, to)).await
    }

    async fn measure(&self) -> Result<Measures, StoreError> {
        self.call("measure", self.inner.measure()).await
    }

    async fn close(&self) {
        if self.at_once { block_on(self.inner.close()) } else { self.inner.close().await }
    }
}
