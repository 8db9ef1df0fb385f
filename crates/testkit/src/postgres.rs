//! A PostgreSQL server of the tests' own, or the one that `TEST_POSTGRES` names.
//!
//! A server lives in a temporary folder, listens on a free port of the loopback and a socket in its folder, and knows
//! TLS with certificates made on the spot. It refuses to be run by root, so that where we are root it is run as
//! somebody else. Tests of a process share one, and each takes a database of its own.

use crate::authority::{Authority, Curve, Order};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, chmod, chown};
use rustix::process::{Gid, Pid, Signal, Uid, geteuid, kill_process};
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Whom servers are run as where we are root.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Who may do everything in the database, with this password over TCP.
pub const USER: &str = "sitemon";
/// Its password.
pub const PASSWORD: &str = "secret";
/// Who must show a certificate of its own instead of a password.
pub const USER_BY_CERTIFICATE: &str = "certified";
/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server; stopped, and its folder removed, when this is dropped. It does not sync its files: processes are
/// killed in tests, the machine is not.
#[derive(Debug)]
pub struct Postgres {
    /// Of a server of our own.
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    /// How a server that was there already is reached; its databases are removed again.
    foreign: Option<String>,
    made: Mutex<Vec<String>>,
    server: Option<Child>,
    /// Ends the server where we die before it.
    guard: Option<Child>,
    databases: AtomicU32,
}

/// The variable that names a server that is there already, with a role that may make databases.
pub const VARIABLE: &str = "TEST_POSTGRES";

/// The server that the tests of this process share, while one of them holds it: the one that [`VARIABLE`] names, or one
/// of our own.
pub fn shared() -> Result<Arc<Postgres>> {
    static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return Ok(server);
    }
    let server = Arc::new(match std::env::var(VARIABLE) {
        Ok(dsn) if !dsn.is_empty() => Postgres::foreign(dsn)?,
        _ => Postgres::start()?,
    });
    *shared = Arc::downgrade(&server);
    Ok(server)
}

impl Postgres {
    /// Makes a database cluster and starts its server.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let folder = std::env::temp_dir().join(format!("sitemon-postgres-{}-{}", std::process::id(), unique()));
        let mut server = Self::new(folder, programs, free_port()?, None);
        server.prepare()?;
        server.run()?;
        let grant = format!(
            "CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}'; CREATE ROLE {USER_BY_CERTIFICATE} LOGIN CREATEDB"
        );
        server.sql("postgres", &grant)?;
        Ok(server)
    }

    /// A server that is there already.
    fn foreign(dsn: String) -> Result<Self> {
        let server = Self::new(PathBuf::new(), programs()?, 0, Some(dsn));
        server.sql("", "SELECT 1").with_context(|| format!("{VARIABLE} names a server that cannot be used"))?;
        Ok(server)
    }

    fn new(folder: PathBuf, programs: PathBuf, port: u16, foreign: Option<String>) -> Self {
        let (made, databases) = (Mutex::default(), AtomicU32::new(0));
        Self { folder, programs, port, foreign, made, server: None, guard: None, databases }
    }

    /// The folder with its socket, its log, and `tls` with the certificates.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of `tls`: `ca.pem`, `client.pem`, `client.key`, or `stranger.pem`, an authority that nothing is from.
    pub fn tls_file(&self, name: &str) -> PathBuf {
        self.folder.join("tls").join(name)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a database and tells how it is reached; without TLS where the server is our own.
    pub fn database(&self) -> Result<String> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let Some(dsn) = &self.foreign else {
            let name = format!("test_{number}");
            self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {USER}"))?;
            return Ok(format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{name}?sslmode=disable", self.port));
        };
        let name = format!("sitemon_test_{}_{number}", std::process::id());
        self.sql("", &format!("CREATE DATABASE {name}"))?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        Ok(with_database(dsn, &name))
    }

    /// Runs statements as the server's own administrator, and gives what they print.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String> {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements]);
        match &self.foreign {
            Some(dsn) if database.is_empty() => command.args(["-d", dsn]),
            Some(dsn) => command.args(["-d", &with_database(dsn, database)]),
            None => command.arg("-h").arg(&self.folder).args([
                "-p",
                &self.port.to_string(),
                "-U",
                "postgres",
                "-d",
                database,
            ]),
        };
        let done = command.output().context("psql cannot be run")?;
        ensure!(done.status.success(), "{statements}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// Ends it as a crash of the machine would, but that files are kept.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut guard) = self.guard.take() {
            guard.kill()?;
            guard.wait()?;
        }
        if let Some(mut server) = self.server.take() {
            // Its children would finish what they do, and notice only then that it is gone.
            let children = format!("/proc/{0}/task/{0}/children", server.id());
            let children = fs::read_to_string(children).unwrap_or_default();
            server.kill()?;
            server.wait()?;
            for pid in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Ok(())
    }

    /// Lets it run again after [`Self::kill`] or [`Self::stop`].
    pub fn run(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"))?;
            let mut command = self.as_somebody("postgres");
            command.arg("-D").arg(self.folder.join("data")).stdin(Stdio::null());
            command.stdout(log.try_clone()?).stderr(log);
            let mut server = command.spawn().context("postgres cannot be run")?;
            while server.try_wait()?.is_none() {
                if self.sql("postgres", "SELECT 1").is_ok() {
                    let watch = format!("read -r _; kill -INT {} 2>/dev/null", server.id());
                    let guard = Command::new("/bin/sh").args(["-c", &watch]).stdin(Stdio::piped()).spawn();
                    self.server = Some(server);
                    self.guard = Some(guard.context("/bin/sh cannot be run")?);
                    return Ok(());
                }
                if Instant::now() > until {
                    let _ = server.kill();
                    let _ = server.wait();
                    bail!("PostgreSQL does not start: {}", self.log());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            // The children of one that was killed may hold its memory for a moment.
            ensure!(Instant::now() < until, "PostgreSQL does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Stops it; whoever is connected is disconnected.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        if let Some(pid) = i32::try_from(server.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::INT)?;
        }
        if let Some(mut guard) = self.guard.take() {
            guard.kill()?;
            guard.wait()?;
        }
        let until = Instant::now() + PATIENCE;
        while server.try_wait()?.is_none() {
            if Instant::now() > until {
                server.kill()?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Makes the folder, the certificates and the files of the cluster.
    fn prepare(&self) -> Result<()> {
        let tls = self.folder.join("tls");
        fs::create_dir_all(&tls)?;
        let authority = Authority::new(Curve::P256)?;
        fs::write(tls.join("ca.pem"), authority.root_pem())?;
        fs::write(tls.join("stranger.pem"), Authority::new(Curve::P256)?.root_pem())?;
        let server = authority.issue(&Order::new(["localhost", "127.0.0.1"]))?;
        fs::write(tls.join("server.pem"), server.chain_pem())?;
        fs::write(tls.join("server.key"), server.key_pem())?;
        let client = authority.issue(&Order { client: true, ..Order::new([USER_BY_CERTIFICATE]) })?;
        fs::write(tls.join("client.pem"), client.chain_pem())?;
        fs::write(tls.join("client.key"), client.key_pem())?;
        chmod(tls.join("server.key"), Mode::from(0o600))?;
        if let Some((_, uid, gid)) = somebody()? {
            for path in [&self.folder, &tls, &tls.join("server.key")] {
                chown(path, Some(uid), Some(gid))?;
            }
        }
        let data = self.folder.join("data");
        let mut command = self.as_somebody("initdb");
        command.arg("-D").arg(&data);
        command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
        let done = command.output().context("initdb cannot be run")?;
        ensure!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nmax_connections = 60\n\
             ssl = on\nssl_cert_file = '{tls}/server.pem'\nssl_key_file = '{tls}/server.key'\n\
             ssl_ca_file = '{tls}/ca.pem'\nlog_min_messages = warning\nshared_buffers = 64MB\nfsync = off\n",
            self.port,
            self.folder.display(),
            tls = tls.display()
        );
        append(&data.join("postgresql.conf"), &settings)?;
        let access = format!(
            "local all postgres trust\nhostssl all {USER_BY_CERTIFICATE} 127.0.0.1/32 cert\n\
             host all {USER} 127.0.0.1/32 scram-sha-256\n"
        );
        fs::write(data.join("pg_hba.conf"), access)?;
        Ok(())
    }

    /// A program of PostgreSQL, as a user whom it does not refuse.
    fn as_somebody(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        // Where we are now may be closed to somebody else.
        command.current_dir("/").env("LC_ALL", "C");
        if let Ok(Some((_, uid, gid))) = somebody() {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        log.lines().rev().take(5).collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.foreign.is_some() {
            for name in self.made.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                let _ = self.sql("", &format!("DROP DATABASE {name} WITH (FORCE)"));
            }
            return;
        }
        let _ = self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A URL of a server with another database.
fn with_database(dsn: &str, name: &str) -> String {
    let (head, query) = dsn.split_once('?').map_or((dsn, String::new()), |(head, query)| (head, format!("?{query}")));
    let authority = head.find("://").map_or(0, |at| at + 3);
    let end = head[authority..].find('/').map_or(head.len(), |at| authority + at);
    format!("{}/{name}{query}", &head[..end])
}

/// The folder of PostgreSQL's programs, the newest that is installed.
fn programs() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, path)| path.join("initdb").exists())
        .collect();
    found.sort();
    if let Some((_, newest)) = found.pop() {
        return Ok(newest);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|folder| folder.join("initdb").exists()).context(
        "PostgreSQL is not installed, and a test needs its server: `make services` installs it (Debian's package \
         postgresql), or TEST_POSTGRES names a server",
    )
}

/// Whom servers are run as; `None`: as we are.
fn somebody() -> Result<Option<(&'static str, Uid, Gid)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("/etc/passwd cannot be read")?;
    for name in USERS {
        let line = users.lines().find(|line| line.split(':').next() == Some(name));
        let mut ids = line.into_iter().flat_map(|line| line.split(':').skip(2)).map_while(|id| id.parse().ok());
        if let (Some(uid), Some(gid)) = (ids.next(), ids.next()) {
            return Ok(Some((name, Uid::from_raw(uid), Gid::from_raw(gid))));
        }
    }
    bail!("PostgreSQL refuses to be run by root, and there is none of the users {}", USERS.join(", "))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Tells servers of one process apart.
fn unique() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

fn append(file: &Path, text: &str) -> Result<()> {
    let before = fs::read_to_string(file)?;
    Ok(fs::write(file, before + text)?)
}
