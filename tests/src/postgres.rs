//! A real PostgreSQL server of one's own: own cluster in a temporary directory, free loopback port, foreground child,
//! ended and removed on drop.
//!
//! ```no_run
//! use lockgate_tests::postgres::{HostAuth, PostgresOptions, TestPostgres};
//!
//! # fn main() -> anyhow::Result<()> {
//! let server = TestPostgres::start(PostgresOptions::new().tls().auth(HostAuth::Scram))?;
//! server.psql("CREATE ROLE app LOGIN PASSWORD 'app-secret'")?;
//! assert_eq!(server.psql("SELECT 1 + 1")?, "2");
//! println!("{} with CA {}", server.addr(), server.ca_file()?.display());
//! # Ok(())
//! # }
//! ```
//!
//! The server refuses to run as root: when the test is root, it runs as uid 65534. If the test process dies without
//! dropping the guard, the kernel ends the server (parent-death signal); only the temporary directory is left then.
//! Never keep one in a `static`: statics are not dropped.

use crate::{
    certificate::TestCa,
    scratch::{Scratch, free_port},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// The superuser of every test cluster.
pub const SUPERUSER: &str = "postgres";
/// Its password, for connections over TCP.
pub const SUPERUSER_PASSWORD: &str = "test-superuser";
/// Who runs the server when the test is root (Debian's `nobody`).
const UNPRIVILEGED_ID: u32 = 65534;
/// A start takes 0.1 s; a machine under load gets 300 times that.
const START_LIMIT: Duration = Duration::from_secs(30);
/// An immediate shutdown takes milliseconds; after this the server is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Somebody else may take the free port before the server does.
const PORT_ATTEMPTS: usize = 3;
const POLL: Duration = Duration::from_millis(10);

/// How the server authenticates connections over TCP. Its unix socket trusts everybody who can reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostAuth {
    /// Nobody is asked.
    #[default]
    Trust,
    /// Cleartext password.
    Password,
    /// MD5.
    Md5,
    /// SCRAM-SHA-256, and SCRAM-SHA-256-PLUS over TLS.
    Scram,
}

impl HostAuth {
    fn method(self) -> &'static str {
        match self {
            HostAuth::Trust => "trust",
            HostAuth::Password => "password",
            HostAuth::Md5 => "md5",
            HostAuth::Scram => "scram-sha-256",
        }
    }

    fn password_encryption(self) -> &'static str {
        match self {
            HostAuth::Md5 => "md5",
            HostAuth::Trust | HostAuth::Password | HostAuth::Scram => "scram-sha-256",
        }
    }
}

/// What kind of server to start.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    tls: bool,
    tls_names: Vec<String>,
    auth: HostAuth,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    bin: Option<PathBuf>,
    port: Option<u16>,
}

impl PostgresOptions {
    /// No TLS, TCP connections trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// With TLS, under a CA of its own; the certificate names `localhost` and 127.0.0.1.
    pub fn tls(self) -> Self {
        self.tls_for(&["localhost", "127.0.0.1"])
    }

    /// With TLS and a certificate for these names and addresses.
    pub fn tls_for(mut self, names: &[&str]) -> Self {
        self.tls = true;
        self.tls_names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// How TCP connections authenticate.
    pub fn auth(mut self, auth: HostAuth) -> Self {
        self.auth = auth;
        self
    }

    /// A further line of postgresql.conf.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The programs of another version, in place of the newest installed one's.
    pub fn bin(mut self, dir: PathBuf) -> Self {
        self.bin = Some(dir);
        self
    }

    /// A port that the client insists on, in place of a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// A line of pg_hba.conf before the general ones.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }
}

/// A running server.
pub struct TestPostgres {
    // Before the directory: fields drop in order, and the server must be gone first.
    server: Option<Keeper>,
    bin: PathBuf,
    port: u16,
    tls: Option<TestCa>,
    scratch: Scratch,
}

impl TestPostgres {
    /// Makes a cluster, starts a server on it and waits until it answers.
    pub fn start(options: PostgresOptions) -> Result<Self> {
        let bin = options.bin.clone().map_or_else(bin_dir, Ok)?;
        let scratch = Scratch::new("pg")?;
        give_away(scratch.path())?;
        init_cluster(&bin, scratch.path(), &options)?;
        let tls = if options.tls { Some(write_tls(scratch.path(), &options)?) } else { None };
        let mut failure = None;
        for _ in 0..PORT_ATTEMPTS {
            let port = options.port.map_or_else(free_port, Ok)?;
            match start_server(&bin, scratch.path(), port) {
                Ok(server) => return Ok(TestPostgres { server: Some(server), bin, port, tls, scratch }),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.context("no attempt was made")?)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The port alone.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its unix socket, for `host=`.
    pub fn socket_dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The certificate of its CA, PEM.
    pub fn ca_pem(&self) -> Result<String> {
        Ok(self.tls.as_ref().context("the server was started without tls()")?.pem())
    }

    /// The file that holds [`TestPostgres::ca_pem`].
    pub fn ca_file(&self) -> Result<PathBuf> {
        ensure!(self.tls.is_some(), "the server was started without tls()");
        Ok(self.scratch.path().join("ca.crt"))
    }

    /// One of its programs (`psql`, `pgbench`, …), of the server's own version where that comes with it.
    pub fn program(&self, name: &str) -> PathBuf {
        program(&self.bin, name)
    }

    /// Runs statements as the superuser over the unix socket, in the database `postgres`; answers the unaligned rows.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.psql_in("postgres", sql)
    }

    /// The same in another database.
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let output = Command::new(self.program("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
            .args([
                "-h",
                &self.socket_dir().display().to_string(),
                "-p",
                &self.port.to_string(),
                "-U",
                SUPERUSER,
            ])
            .stdin(Stdio::null())
            .output()
            .context("run psql")?;
        if !output.status.success() {
            bail!("psql failed on {sql:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim_end_matches('\n').to_owned())
    }

    /// The server's log so far.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.scratch.path().join("log"))?)
    }

    /// Kills the server (SIGKILL), as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => server.end(nix::sys::signal::Signal::SIGKILL),
            None => Ok(()),
        }
    }

    /// Starts it again on the same port after [`TestPostgres::kill`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.server = Some(start_server(&self.bin, self.scratch.path(), self.port)?);
        Ok(())
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        // Immediate shutdown: the cluster is about to be removed.
        if let Some(server) = self.server.take()
            && let Err(error) = server.end(nix::sys::signal::Signal::SIGQUIT)
        {
            eprintln!("TestPostgres: {error:#}");
        }
    }
}

/// Clients that speak to any major. The installed ones have TLS, which packages of other majors may lack.
const CLIENTS: [&str; 2] = ["psql", "pgbench"];

/// A program from a directory; the installed one where it is not there, or where the major does not matter.
fn program(bin: &Path, name: &str) -> PathBuf {
    let own = bin.join(name);
    match installed_bin() {
        Ok(installed) if !own.exists() || CLIENTS.contains(&name) => installed.join(name),
        Ok(_) | Err(_) => own,
    }
}

/// The newest PostgreSQL on this machine, or the one that LOCKGATE_PG_BIN names.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("LOCKGATE_PG_BIN") {
        return Ok(dir.into());
    }
    installed_bin()
}

fn installed_bin() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let bin = entry.path().join("bin");
        if let Some(major) = entry.file_name().to_str().and_then(|n| n.parse().ok())
            && bin.join("initdb").exists()
        {
            found.push((major, bin));
        }
    }
    found.sort();
    let newest = found.pop().map(|(_, bin)| bin);
    newest.context("no PostgreSQL under /usr/lib/postgresql: install postgresql, or set LOCKGATE_PG_BIN")
}

/// A command that runs as the server's user.
fn unprivileged(program: &Path, home: &Path) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        let id = UNPRIVILEGED_ID.to_string();
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "INT", "--"])
            .arg(program);
        command
    } else {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT", "--"]).arg(program);
        command
    };
    // The caller's locale and PG* variables must not reach the server.
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir(home);
    command.stdin(Stdio::null());
    command
}

fn give_away(path: &Path) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(UNPRIVILEGED_ID), Some(UNPRIVILEGED_ID))
            .with_context(|| format!("hand {} to the server's user", path.display()))?;
    }
    Ok(())
}

fn init_cluster(bin: &Path, dir: &Path, options: &PostgresOptions) -> Result<()> {
    let password_file = dir.join("superuser.password");
    std::fs::write(&password_file, SUPERUSER_PASSWORD)?;
    give_away(&password_file)?;
    let output = unprivileged(&bin.join("initdb"), dir)
        .args(["--no-sync", "--encoding=UTF8", "--locale=C", "-U", SUPERUSER])
        // initdb hashes the superuser's password as this method needs it.
        .args(["--auth-local=trust", &format!("--auth-host={}", options.auth.method())])
        .arg("-D")
        .arg(dir.join("data"))
        .arg(format!("--pwfile={}", password_file.display()))
        .output()
        .context("run initdb")?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    append(&dir.join("data/postgresql.conf"), &settings(dir, options))?;
    std::fs::write(dir.join("data/pg_hba.conf"), hba(options))?;
    Ok(())
}

fn settings(dir: &Path, options: &PostgresOptions) -> String {
    let mut lines = vec![
        ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
        ("unix_socket_directories".to_owned(), dir.display().to_string()),
        ("password_encryption".to_owned(), options.auth.password_encryption().to_owned()),
        // Durability is not what these clusters are for.
        ("fsync".to_owned(), "off".to_owned()),
        ("full_page_writes".to_owned(), "off".to_owned()),
        ("synchronous_commit".to_owned(), "off".to_owned()),
        ("shared_buffers".to_owned(), "16MB".to_owned()),
    ];
    if options.tls {
        lines.push(("ssl".to_owned(), "on".to_owned()));
        lines.push(("ssl_cert_file".to_owned(), dir.join("server.crt").display().to_string()));
        lines.push(("ssl_key_file".to_owned(), dir.join("server.key").display().to_string()));
    }
    lines.extend(options.settings.iter().cloned());
    lines.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
}

fn hba(options: &PostgresOptions) -> String {
    let mut lines = options.hba.clone();
    let method = options.auth.method();
    lines.push("local all all trust".to_owned());
    lines.push(format!("host all all 127.0.0.1/32 {method}"));
    lines.push(format!("host replication all 127.0.0.1/32 {method}"));
    lines.join("\n") + "\n"
}

fn write_tls(dir: &Path, options: &PostgresOptions) -> Result<TestCa> {
    let ca = TestCa::new("lockgate test CA")?;
    let names: Vec<&str> = options.tls_names.iter().map(String::as_str).collect();
    let server = ca.issue(&names)?;
    std::fs::write(dir.join("ca.crt"), ca.pem())?;
    std::fs::write(dir.join("server.crt"), server.certificate)?;
    let key = dir.join("server.key");
    std::fs::write(&key, server.key)?;
    give_away(&key)?;
    // The server refuses a key that others may read.
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(ca)
}

fn append(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

fn start_server(bin: &Path, dir: &Path, port: u16) -> Result<Keeper> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
    let mut command = unprivileged(&bin.join("postgres"), dir);
    command
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-p", &port.to_string()])
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut server = Keeper::spawn(command)?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(status) = server.exited()? {
            bail!("postgres ended with {status}: {}", std::fs::read_to_string(dir.join("log"))?);
        }
        let ready = Command::new(program(bin, "pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
            .status()
            .context("run pg_isready")?;
        if ready.success() {
            return Ok(server);
        }
        ensure!(Instant::now() < deadline, "postgres was not ready within {START_LIMIT:?}");
        thread::sleep(POLL);
    }
}

/// Owns the child through a thread of its own: the parent-death signal comes when the *thread* that started the child
/// ends, so that thread must live exactly as long as the guard (or the process).
struct Keeper {
    child: Option<Child>,
    release: mpsc::Sender<()>,
}

impl Keeper {
    fn spawn(mut command: Command) -> Result<Self> {
        let (release, released) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        thread::Builder::new().name("postgres keeper".to_owned()).spawn(move || {
            let outcome = command.spawn();
            let keep = outcome.is_ok();
            if started.send(outcome).is_ok() && keep {
                // Ends when the guard is dropped or says so.
                let _ = released.recv();
            }
        })?;
        let child =
            start.recv().context("the keeper thread ended")?.context("start postgres through setpriv")?;
        Ok(Keeper { child: Some(child), release })
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    fn end(mut self, signal: nix::sys::signal::Signal) -> Result<()> {
        self.stop(signal)
    }

    fn stop(&mut self, signal: nix::sys::signal::Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        if child.try_wait()?.is_none() {
            nix::sys::signal::kill(pid, signal).context("signal postgres")?;
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill().context("kill postgres")?;
                child.wait()?;
                break;
            }
            thread::sleep(POLL);
        }
        // The keeper may already be gone.
        let _ = self.release.send(());
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Err(error) = self.stop(nix::sys::signal::Signal::SIGQUIT) {
            eprintln!("TestPostgres: {error:#}");
        }
    }
}
