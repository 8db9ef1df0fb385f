//! From a name to addresses: hosts file, search list, name servers, getaddrinfo, and what is kept.

use crate::http::dns::{Addresses, Family, Outcome, Query, Servers};
use crate::http::spec::{IpChoice, Resolver};
use crate::http::timeline::Trace;
use sitemon_model::{Cause, Code};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// RFC 8305, 3: how long addresses of IPv4 wait for those of IPv6.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// How often the machine's files are looked at for changes.
const RELOAD: Duration = Duration::from_secs(1);

/// Threads that wait for getaddrinfo at the same time; more lookups wait for one of them, which is lag.
const LIBC_THREADS: usize = 16;

/// Names kept with `dns_cache: ttl`; beyond it, all are forgotten.
const CACHED_MAX: usize = 100_000;

/// The larger half of the names that a hosts file may list; what follows is left aside.
const HOSTS_BYTES_MAX: u64 = 16 << 20;

/// Who answers for names. One for each runtime.
#[derive(Debug)]
pub(crate) struct Names {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    system: Mutex<Option<Loaded>>,
    servers: Mutex<HashMap<Vec<SocketAddr>, Arc<Servers>>>,
    cache: Mutex<HashMap<CacheKey, (Kept, Instant)>>,
    libc: Arc<Semaphore>,
    /// Identifiers of queries that nobody can foretell: a keyed hash of a counter.
    random: RandomState,
    asked: AtomicU64,
}

/// Who was asked for what, and for which families.
type CacheKey = (Resolver, Box<str>, SmallVec<[Family; 2]>);

/// What all families of a name came to; one without addresses has none. Kept and forgotten as a whole: with one family
/// alone a site would be down whose other family answers.
type Kept = SmallVec<[(Family, Addresses); 2]>;

/// The machine's files as they were read.
#[derive(Debug)]
struct Loaded {
    system: Arc<System>,
    stamps: [Stamp; 2],
    looked: Instant,
}

/// What a change of a file is told by.
type Stamp = Option<(SystemTime, u64)>;

#[derive(Debug)]
struct System {
    servers: Arc<Servers>,
    search: Vec<Box<str>>,
    ndots: usize,
    hosts: HashMap<Box<str>, Addresses>,
}

/// The right to one thread of the pool for getaddrinfo.
#[derive(Debug)]
pub(crate) struct LibcTurn {
    _permit: OwnedSemaphorePermit,
}

impl Names {
    pub(crate) fn new(resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        Self {
            resolv_conf,
            hosts,
            system: Mutex::new(None),
            servers: Mutex::new(HashMap::new()),
            cache: Mutex::new(HashMap::new()),
            libc: Arc::new(Semaphore::new(LIBC_THREADS)),
            random: RandomState::new(),
            asked: AtomicU64::new(0),
        }
    }

    /// Waits for a thread of the pool for getaddrinfo; taken before a check begins, so that waiting is lag.
    pub(crate) async fn libc_turn(&self) -> Option<LibcTurn> {
        self.libc.clone().acquire_owned().await.ok().map(|permit| LibcTurn { _permit: permit })
    }

    fn random(&self) -> u64 {
        self.random.hash_one(self.asked.fetch_add(1, Ordering::Relaxed))
    }

    fn servers(&self, addresses: &[SocketAddr]) -> Arc<Servers> {
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(servers) = known.get(addresses) {
            return servers.clone();
        }
        let servers = Servers::new(addresses.iter().copied());
        known.insert(addresses.to_vec(), servers.clone());
        servers
    }

    /// The machine's configuration, read anew where a file changed.
    fn system(&self) -> Result<Arc<System>, Box<str>> {
        let mut kept = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(loaded) = &mut *kept {
            if now.duration_since(loaded.looked) < RELOAD {
                return Ok(loaded.system.clone());
            }
            loaded.looked = now;
            if loaded.stamps == [stamp(&self.resolv_conf), stamp(&self.hosts)] {
                return Ok(loaded.system.clone());
            }
        }
        let stamps = [stamp(&self.resolv_conf), stamp(&self.hosts)];
        match read_system(&self.resolv_conf, &self.hosts) {
            Ok(system) => {
                let system = Arc::new(system);
                *kept = Some(Loaded { system: system.clone(), stamps, looked: now });
                Ok(system)
            }
            // For want of descriptors, for example: what was known goes on.
            Err(error) => match &*kept {
                Some(loaded) => Ok(loaded.system.clone()),
                None => Err(error),
            },
        }
    }

    fn cached(&self, key: &CacheKey) -> Option<Kept> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, until) = cache.get(key)?;
        (Instant::now() < *until).then(|| kept.clone())
    }

    fn keep(&self, key: CacheKey, kept: Kept, ttl: Duration) {
        let Some(until) = Instant::now().checked_add(ttl).filter(|_| !ttl.is_zero()) else { return };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_MAX {
            cache.clear();
        }
        cache.insert(key, (kept, until));
    }

    /// Begins to ask for a name.
    pub(crate) fn lookup(&self, question: Question<'_>, turn: Option<LibcTurn>) -> Lookup {
        let families: SmallVec<[Family; 2]> = match question.ip {
            IpChoice::V4 => [Family::V4].into_iter().collect(),
            IpChoice::V6 => [Family::V6].into_iter().collect(),
            // RFC 8305, 3: AAAA first.
            IpChoice::Any | IpChoice::Each => [Family::V6, Family::V4].into_iter().collect(),
        };
        let mut lookup = Lookup { ready: SmallVec::new(), source: Source::Nothing, keep: None };
        let name = question.name.strip_suffix('.').unwrap_or(question.name);
        // RFC 6761, 6.3: these names never leave the machine.
        let local = name.eq_ignore_ascii_case("localhost")
            || name.len() > 10
                && name.is_char_boundary(name.len() - 10)
                && name[name.len() - 10..].eq_ignore_ascii_case(".localhost");
        if question.cached {
            let key = (question.resolver.clone(), question.name.into(), families.clone());
            if let Some(kept) = self.cached(&key) {
                let outcome = |addresses: Addresses| {
                    if addresses.is_empty() { Outcome::Empty } else { Outcome::Found(addresses, Duration::ZERO) }
                };
                lookup.ready.extend(kept.into_iter().map(|(family, addresses)| (family, outcome(addresses))));
                return lookup;
            }
            lookup.keep = Some(Keeping { key, kept: Kept::new(), ttl: Duration::MAX });
        }
        match question.resolver {
            Resolver::System => match self.system() {
                Ok(system) => {
                    if let Some(addresses) = system.hosts.get(&*name.to_ascii_lowercase()) {
                        lookup.known(&families, addresses);
                    } else if local {
                        lookup.known(&families, &loopback());
                    } else {
                        let candidates = candidates(question.name, &system.search, system.ndots);
                        lookup.source = Source::ask(candidates, families, system.servers.clone(), self.random());
                    }
                }
                Err(error) => lookup.ready.push((families[0], Outcome::Own(error))),
            },
            Resolver::Servers(addresses) => {
                let servers = self.servers(addresses);
                lookup.source = Source::ask(vec![question.name.into()], families, servers, self.random());
            }
            Resolver::Libc => lookup.source = Source::libc(question.name, &families, turn),
        }
        lookup
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) name: &'a str,
    pub(crate) ip: IpChoice,
    pub(crate) resolver: &'a Resolver,
    /// `dns_cache: ttl`
    pub(crate) cached: bool,
}

/// A name under way. Addresses come family by family.
pub(crate) struct Lookup {
    ready: SmallVec<[(Family, Outcome); 2]>,
    source: Source,
    /// As long as it is not settled whether the name is kept.
    keep: Option<Keeping>,
}

/// A name that is to be kept once all its families have come.
struct Keeping {
    key: CacheKey,
    kept: Kept,
    /// The shortest of the times that they may be kept.
    ttl: Duration,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("ready", &self.ready).finish_non_exhaustive()
    }
}

enum Source {
    Nothing,
    Asking(Box<Asking>),
    Libc(oneshot::Receiver<Vec<(Family, Outcome)>>),
}

/// Candidates of the search list, one after the other.
struct Asking {
    candidates: std::vec::IntoIter<Box<str>>,
    families: SmallVec<[Family; 2]>,
    servers: Arc<Servers>,
    random: u64,
    query: Option<Query>,
    /// What the families of the present candidate came to, where they found nothing.
    nothing: SmallVec<[(Family, Outcome); 2]>,
    found: bool,
}

impl Source {
    fn ask(candidates: Vec<Box<str>>, families: SmallVec<[Family; 2]>, servers: Arc<Servers>, random: u64) -> Self {
        Self::Asking(Box::new(Asking {
            candidates: candidates.into_iter(),
            families,
            servers,
            random,
            query: None,
            nothing: SmallVec::new(),
            found: false,
        }))
    }

    fn libc(name: &str, families: &[Family], turn: Option<LibcTurn>) -> Self {
        let (answer, receiver) = oneshot::channel();
        let name = name.to_owned();
        let families: SmallVec<[Family; 2]> = families.iter().copied().collect();
        let ask = move || {
            // Whoever asked may have gone; the turn is given back when getaddrinfo returns.
            drop(answer.send(getaddrinfo(&name, &families)));
            drop(turn);
        };
        // Without a thread the sender goes with the closure, and the receiver tells so as a failure of ours.
        drop(std::thread::Builder::new().name("getaddrinfo".to_owned()).stack_size(256 << 10).spawn(ask));
        Self::Libc(receiver)
    }
}

impl Asking {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<(Family, Outcome)>> {
        loop {
            let Some(query) = &mut self.query else {
                let Some(candidate) = self.candidates.next() else { return Poll::Ready(self.nothing.pop()) };
                self.random = self.random.rotate_left(32) ^ self.random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                self.query = Query::new(&candidate, &self.families, self.servers.clone(), self.random);
                if self.query.is_none() && self.nothing.is_empty() {
                    self.nothing = self.families.iter().map(|family| (*family, Outcome::NotFound)).collect();
                }
                continue;
            };
            match std::task::ready!(query.poll_next(cx)) {
                Some((family, outcome @ Outcome::Found(..))) => {
                    self.found = true;
                    return Poll::Ready(Some((family, outcome)));
                }
                Some((family, outcome)) => {
                    if self.found {
                        return Poll::Ready(Some((family, outcome)));
                    }
                    // A name that exists, and a failure, tell more than a later candidate that does not exist.
                    match self.nothing.iter_mut().find(|(known, _)| *known == family) {
                        Some((_, known)) if weight(&outcome) > weight(known) => *known = outcome,
                        Some(_) => {}
                        None => self.nothing.push((family, outcome)),
                    }
                }
                None => {
                    self.query = None;
                    if self.found {
                        // A family that found nothing before the other one found something.
                        self.candidates = Vec::new().into_iter();
                    }
                }
            }
        }
    }
}

impl Keeping {
    /// Takes in what a family came to. Ends when all have come, and where one failed.
    fn learn(mut self, family: Family, outcome: &Outcome, names: &Names) -> Option<Self> {
        match outcome {
            Outcome::Found(addresses, ttl) => {
                self.ttl = self.ttl.min(*ttl);
                self.kept.push((family, addresses.clone()));
            }
            Outcome::Empty => self.kept.push((family, Addresses::new())),
            Outcome::NotFound | Outcome::Failed(..) | Outcome::Own(_) => return None,
        }
        if self.kept.len() < self.key.2.len() {
            return Some(self);
        }
        if self.kept.iter().any(|(_, addresses)| !addresses.is_empty()) {
            names.keep(self.key, self.kept, self.ttl);
        }
        None
    }
}

impl Lookup {
    fn known(&mut self, families: &[Family], addresses: &Addresses) {
        for family in families {
            let own: Addresses = addresses.iter().copied().filter(|a| Family::of(*a) == *family).collect();
            let outcome = if own.is_empty() { Outcome::Empty } else { Outcome::Found(own, Duration::ZERO) };
            self.ready.push((*family, outcome));
        }
    }

    /// The next family's outcome; `None` when all have come. May be dropped and called again.
    pub(crate) async fn next(&mut self, names: &Names) -> Option<(Family, Outcome)> {
        if !self.ready.is_empty() {
            return Some(self.ready.remove(0));
        }
        match &mut self.source {
            Source::Nothing => None,
            Source::Asking(asking) => {
                let next = std::future::poll_fn(|cx| asking.poll(cx)).await;
                if let (Some((family, outcome)), Some(keeping)) = (&next, self.keep.take()) {
                    self.keep = keeping.learn(*family, outcome, names);
                }
                next
            }
            Source::Libc(receiver) => {
                let answers = receiver.await;
                self.source = Source::Nothing;
                match answers {
                    Ok(answers) => self.ready.extend(answers),
                    Err(_) => self.ready.push((Family::V4, Outcome::Own("no thread for getaddrinfo".into()))),
                }
                (!self.ready.is_empty()).then(|| self.ready.remove(0))
            }
        }
    }

    /// The first addresses to dial, as RFC 8305 says: those of IPv6 at once, those of IPv4 after they have
    /// waited a little for the others. With `all`, every address of both families.
    pub(crate) async fn first(&mut self, names: &Names, name: &str, all: bool) -> Result<Addresses, Cause> {
        let mut found = Addresses::new();
        let mut failure: Option<Outcome> = None;
        let mut delay: Option<Pin<Box<tokio::time::Sleep>>> = None;
        loop {
            let next = match &mut delay {
                None => self.next(names).await,
                Some(delay) => tokio::select! {
                    biased;
                    next = self.next(names) => next,
                    () = delay.as_mut() => return Ok(found),
                },
            };
            match next {
                Some((family, Outcome::Found(addresses, _))) => {
                    if family == Family::V6 {
                        found.insert_many(0, addresses);
                    } else {
                        found.extend(addresses);
                    }
                    // A name that is to be kept is waited for a little, so that it is known as a whole.
                    if family == Family::V6 && !all && self.keep.is_none() {
                        return Ok(found);
                    }
                    if !all && delay.is_none() {
                        delay = Some(Box::pin(tokio::time::sleep(RESOLUTION_DELAY)));
                    }
                }
                Some((_, outcome)) => {
                    if failure.as_ref().is_none_or(|known| weight(&outcome) > weight(known)) {
                        failure = Some(outcome);
                    }
                }
                None if !found.is_empty() => return Ok(found),
                None => return Err(cause_of(failure, name)),
            }
        }
    }
}

/// The cause of a lookup that found no address.
fn cause_of(outcome: Option<Outcome>, name: &str) -> Cause {
    match outcome {
        Some(Outcome::Own(why)) => Cause::new(Code::OwnFailure, why),
        Some(Outcome::Failed(code, why)) => Cause::new(code, format!("{name}: {why}")),
        Some(Outcome::Empty) => {
            Cause::new(Code::DnsNotFound, format!("{name} has no address of the families asked for"))
        }
        _ => Cause::new(Code::DnsNotFound, format!("{name} does not exist")),
    }
}

/// Which of two outcomes without an address tells more.
fn weight(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::NotFound => 0,
        Outcome::Empty => 1,
        Outcome::Failed(..) => 2,
        Outcome::Own(_) => 3,
        Outcome::Found(..) => 4,
    }
}

fn loopback() -> Addresses {
    [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)].into_iter().collect()
}

/// The names to ask for, in their order: resolv.conf(5), `search` and `ndots`.
fn candidates(name: &str, search: &[Box<str>], ndots: usize) -> Vec<Box<str>> {
    if name.ends_with('.') || search.is_empty() {
        return vec![name.into()];
    }
    let searched = search.iter().map(|suffix| format!("{name}.{suffix}").into());
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    if dots >= ndots {
        std::iter::once(name.into()).chain(searched).collect()
    } else {
        searched.chain(std::iter::once(name.into())).collect()
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read_system(resolv_conf: &Path, hosts: &Path) -> Result<System, Box<str>> {
    let read = |path: &Path| -> Result<String, Box<str>> {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > HOSTS_BYTES_MAX => Err(format!("{} is too large", path.display()).into()),
            _ => match std::fs::read(path) {
                Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                Err(error) => Err(format!("cannot read {}: {error}", path.display()).into()),
            },
        }
    };
    let mut system = parse_resolv_conf(&read(resolv_conf)?);
    system.hosts = parse_hosts(&read(hosts)?);
    Ok(system)
}

fn parse_resolv_conf(text: &str) -> System {
    let mut servers: Vec<SocketAddr> = Vec::new();
    let mut search: Vec<Box<str>> = Vec::new();
    let mut ndots = 1;
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().and_then(parse_server)),
            Some("domain" | "search") => {
                search =
                    words.map(|word| word.trim_end_matches('.')).filter(|w| !w.is_empty()).map(Box::from).collect();
            }
            Some("options") => {
                for word in words {
                    if let Some(number) = word.strip_prefix("ndots:").and_then(|number| number.parse::<usize>().ok()) {
                        ndots = number.min(15);
                    }
                }
            }
            _ => {}
        }
    }
    if servers.is_empty() {
        // As resolv.conf(5) says.
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
    }
    System { servers: Servers::new(servers), search, ndots, hosts: HashMap::new() }
}

/// An address, of IPv6 also with its zone: `fe80::1%eth0`.
fn parse_server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 53));
    }
    let (address, zone) = word.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let index = zone.parse().ok().or_else(|| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", zone.replace(['/', '.'], "_"))).ok()?;
        text.trim().parse().ok()
    })?;
    Some(SocketAddr::V6(std::net::SocketAddrV6::new(address, 53, 0, index)))
}

fn parse_hosts(text: &str) -> HashMap<Box<str>, Addresses> {
    let mut hosts: HashMap<Box<str>, Addresses> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let addresses = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase().into()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

/// Asks the C library, in a thread of its own. What went wrong is told by its words only: they are those of
/// `gai_strerror(3)` in glibc and musl, untranslated because no locale is set.
fn getaddrinfo(name: &str, families: &[Family]) -> Vec<(Family, Outcome)> {
    use std::net::ToSocketAddrs;
    match (name, 0u16).to_socket_addrs() {
        Ok(found) => {
            let mut all = Addresses::new();
            for address in found.map(|address| address.ip()) {
                if !all.contains(&address) {
                    all.push(address);
                }
            }
            families
                .iter()
                .map(|family| {
                    let own: Addresses = all.iter().copied().filter(|a| Family::of(*a) == *family).collect();
                    (*family, if own.is_empty() { Outcome::Empty } else { Outcome::Found(own, Duration::ZERO) })
                })
                .collect()
        }
        Err(error) => {
            let words = error.to_string();
            let said = |needles: &[&str]| needles.iter().any(|needle| words.contains(needle));
            let outcome = if said(&["not known", "does not resolve", "No address associated", "no usable records"]) {
                Outcome::NotFound
            } else if error.raw_os_error().is_some() || said(&["Memory", "memory", "System error"]) {
                Outcome::Own(words.into())
            } else {
                Outcome::Failed(Code::DnsServerFailure, words.into())
            };
            families.iter().map(|family| (*family, outcome.clone())).collect()
        }
    }
}

/// Looks a name up for a check whose phase `dns` is under way.
pub(crate) async fn resolve(
    names: &Names,
    question: Question<'_>,
    turn: Option<LibcTurn>,
    trace: &mut Trace,
) -> Result<(Addresses, Lookup), Cause> {
    let mut lookup = names.lookup(question, turn);
    match lookup.first(names, question.name, question.ip == IpChoice::Each).await {
        Ok(found) => Ok((found, lookup)),
        Err(cause) => {
            trace.fail(cause.code);
            Err(cause)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_files() {
        let system = parse_resolv_conf(
            "# comment\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n search a.example b.example.\noptions ndots:2 rotate\n",
        );
        assert_eq!(system.search, ["a.example".into(), "b.example".into()]);
        assert_eq!(system.ndots, 2);
        assert_eq!(
            format!("{:?}", system.servers),
            "Servers { addresses: [192.0.2.1:53, [2001:db8::1]:53], preferred: 0 }"
        );
        let hosts = parse_hosts("127.0.0.1 localhost # x\n192.0.2.9\tWeb.Example web\n::1 localhost\n");
        assert_eq!(hosts["web.example"][..], [IpAddr::from([192, 0, 2, 9])]);
        assert_eq!(hosts["localhost"].len(), 2);
        assert!(format!("{:?}", parse_resolv_conf("").servers).contains("127.0.0.1:53"));
    }

    #[track_caller]
    fn check(name: &str, ndots: usize, expected: &[&str]) {
        let search = ["a".into(), "b".into()];
        let names: Vec<String> = candidates(name, &search, ndots).iter().map(ToString::to_string).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_search_list() {
        check("www", 1, &["www.a", "www.b", "www"]);
        check("www.x", 1, &["www.x", "www.x.a", "www.x.b"]);
        check("www.x", 2, &["www.x.a", "www.x.b", "www.x"]);
        check("www.x.", 2, &["www.x."]);
    }
}
