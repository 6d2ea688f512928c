//! PostgreSQL's own regression suite, run by its own `pg_regress`, directly and through lockgate.
//!
//! `pg_regress` comes with Debian's `postgresql-15`; the statements and the expected output come from the source package
//! of the same version, the headers for `regress.so` from `postgresql-server-dev-15`. Both are fetched by apt into a cache
//! and only unpacked: nothing is installed, nothing is committed. Driven by `lockgate-regress`.

use crate::{
    job::JOB_UID,
    postgres::{HostAuth, PostgresOptions, SUPERUSER, bin_dir},
    scratch::Scratch,
    through::{Route, Through},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long one run of the suite may take. It takes 21 s directly on two cores.
const RUN_LIMIT: Duration = Duration::from_secs(900);
/// What every parallel group may open at once: the largest has 20 tests, some tests reconnect.
const CONNECTIONS: &str = "100";
/// Modules that tests load besides `regress.so`; Debian ships them with the server.
const SERVER_MODULES: &[&str] = &["autoinc.so", "refint.so"];

/// The suite, unpacked and built.
#[derive(Debug)]
pub struct Suite {
    /// `src/test/regress` of the sources.
    tests: PathBuf,
    /// The module that its tests load.
    module: PathBuf,
    /// The server's major version.
    major: String,
    /// Programs of the very version that the suite belongs to, where that is not the installed one.
    server: Option<PathBuf>,
}

impl Suite {
    /// Takes the suite from `cache`, or fetches it there.
    pub fn fetch(cache: &Path) -> Result<Self> {
        let version = server_version()?;
        let major = version.split('.').next().unwrap_or_default().to_owned();
        let home = cache.join(&version);
        let mut suite =
            Self { tests: home.join("regress"), module: home.join("regress.so"), major, server: None };
        let unpacked_server = home.join("server");
        let own = unpacked_server.join(format!("usr/lib/postgresql/{}", suite.major));
        suite.server = own.is_dir().then(|| own.clone());
        if suite.tests.join("parallel_schedule").is_file() && suite.module.is_file() {
            return Ok(suite);
        }
        std::fs::create_dir_all(&home)?;
        // Unpacked beside its place and renamed: an interrupted fetch leaves nothing that looks whole.
        let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(cache)?;
        let apt = Apt::new(work.path())?;
        let package = format!("postgresql-{}", suite.major);
        let got = apt.fetch_source(&package)?;
        let archive = found(work.path(), ".orig.tar.bz2")?;
        run(Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(work.path())
            .args(["--wildcards", "--strip-components=1", "*/src/test/regress"]))?;
        let headers = format!("postgresql-server-dev-{}={got}", suite.major);
        apt.run("apt-get", &["download", &headers])?;
        let include = work.path().join("dev");
        run(Command::new("dpkg-deb").arg("--extract").arg(found(work.path(), ".deb")?).arg(&include))?;
        if got != package_version(&package)? {
            // What psql prints changes between minor versions, and with it what the suite expects.
            let unfinished = work.path().join("server");
            for package in [format!("{package}={got}"), format!("postgresql-client-{}={got}", suite.major)] {
                apt.run("apt-get", &["download", &package])?;
            }
            for package in all(work.path(), ".deb")? {
                run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&unfinished))?;
            }
            if unpacked_server.exists() {
                std::fs::remove_dir_all(&unpacked_server)?;
            }
            std::fs::rename(unfinished, &unpacked_server)?;
            suite.server = Some(own);
        }
        let unpacked = work.path().join("src/test/regress");
        build_module(&unpacked, &include, &suite.major, &suite.module)?;
        if suite.tests.exists() {
            std::fs::remove_dir_all(&suite.tests)?;
        }
        std::fs::rename(&unpacked, &suite.tests)?;
        Ok(suite)
    }

    /// Runs it directly, on a server that logs every statement; answers the log (a JSON object a line). The files that
    /// statements name stay below `home`.
    pub fn logged(&self, home: &Path) -> Result<String> {
        let shipped = PathBuf::from(format!("/usr/lib/postgresql/{}", self.major));
        let own = self.server.as_deref().unwrap_or(&shipped);
        copy_tree(&self.tests, &home.join("suite"))?;
        let (libraries, logs) = (home.join("lib"), home.join("logs"));
        std::fs::create_dir(&libraries)?;
        std::fs::create_dir(&logs)?;
        std::fs::copy(&self.module, libraries.join("regress.so"))?;
        for module in SERVER_MODULES {
            std::fs::copy(own.join("lib").join(module), libraries.join(module))
                .with_context(|| (*module).to_owned())?;
        }
        run(Command::new("chown").args(["-R", &format!("{JOB_UID}:{JOB_UID}")]).arg(home))?;
        run(Command::new("chmod").args(["a+rwx"]).arg(&logs))?;
        let server = crate::postgres::TestPostgres::start(
            PostgresOptions::new()
                .bin(own.join("bin"))
                .setting("max_connections", CONNECTIONS)
                .setting("max_prepared_transactions", "2")
                .setting("shared_buffers", "128MB")
                .setting("log_statement", "all")
                .setting("logging_collector", "on")
                .setting("log_destination", "jsonlog")
                .setting("log_directory", &logs.display().to_string())
                .setting("log_filename", "statements")
                .setting("log_rotation_size", "0")
                .setting("log_file_mode", "0644"),
        )?;
        let ended = std::os::unix::process::CommandExt::uid(
            Command::new(own.join("lib/pgxs/src/test/regress/pg_regress"))
                .args([
                    "--inputdir=suite",
                    "--outputdir=out",
                    "--host=127.0.0.1",
                    "--schedule=suite/parallel_schedule",
                ])
                .arg(format!("--bindir={}", own.join("bin").display()))
                .arg(format!("--dlpath={}", libraries.display()))
                .arg(format!("--port={}", server.port()))
                .arg(format!("--user={SUPERUSER}"))
                .env("HOME", home)
                .stdin(Stdio::null())
                .current_dir(home),
            JOB_UID,
        )
        .output()?;
        let log = std::fs::read_to_string(logs.join("statements.json"))
            .with_context(|| format!("pg_regress said: {}", String::from_utf8_lossy(&ended.stdout)))?;
        Ok(log)
    }

    /// Runs it on a fresh server; `only` names tests of one group to run instead of the whole schedule.
    pub async fn run(&self, route: Route, only: &[String]) -> Result<Run> {
        let shipped = PathBuf::from(format!("/usr/lib/postgresql/{}", self.major));
        let own = self.server.as_deref().unwrap_or(&shipped);
        let server = PostgresOptions::new()
            .bin(own.join("bin"))
            .auth(HostAuth::Trust)
            .setting("max_connections", CONNECTIONS)
            .setting("max_prepared_transactions", "2")
            // The suite expects what initdb would have chosen.
            .setting("shared_buffers", "128MB");
        let world = Through::with(server, |_| {}).await?;
        let place = Scratch::new("regress")?;
        let home = place.path();
        copy_tree(&self.tests, &home.join("suite"))?;
        let libraries = home.join("lib");
        std::fs::create_dir(&libraries)?;
        std::fs::copy(&self.module, libraries.join("regress.so"))?;
        for module in SERVER_MODULES {
            std::fs::copy(own.join("lib").join(module), libraries.join(module))
                .with_context(|| (*module).to_owned())?;
        }
        run(Command::new("chown").args(["-R", &format!("{JOB_UID}:{JOB_UID}")]).arg(home))?;

        let began = Instant::now();
        let mut arguments = vec![
            own.join("lib/pgxs/src/test/regress/pg_regress").display().to_string(),
            "--inputdir=suite".to_owned(),
            "--outputdir=out".to_owned(),
            format!("--bindir={}", own.join("bin").display()),
            format!("--dlpath={}", libraries.display()),
            "--host=127.0.0.1".to_owned(),
            format!("--port={}", world.pg.port()),
            format!("--user={SUPERUSER}"),
        ];
        if only.is_empty() {
            arguments.push("--schedule=suite/parallel_schedule".to_owned());
        } else {
            arguments.extend(only.iter().cloned());
        }
        // The server writes into the suite's directories: as the same user.
        let (uid, gid) = (format!("--reuid={JOB_UID}"), format!("--regid={JOB_UID}"));
        let mut words = vec!["setpriv", uid.as_str(), gid.as_str(), "--clear-groups", "--"];
        words.extend(arguments.iter().map(String::as_str));
        let mut command = world.job(route, &[], &words);
        let home_text = home.display().to_string();
        command.current_dir(home).env("HOME", &home_text);
        let output = tokio::time::timeout(RUN_LIMIT, command.output())
            .await
            .with_context(|| format!("pg_regress did not end within {RUN_LIMIT:?}"))??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let tests = results(&said);
        ensure!(
            !tests.is_empty(),
            "pg_regress ran no test:\n{said}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            world.agent.log()
        );
        let mut outputs = BTreeMap::new();
        for name in tests.keys() {
            let path = home.join("out/results").join(format!("{name}.out"));
            outputs.insert(name.clone(), std::fs::read(&path).unwrap_or_default());
        }
        let diffs = std::fs::read(home.join("out/regression.diffs")).unwrap_or_default();
        Ok(Run {
            tests,
            outputs,
            diffs: String::from_utf8_lossy(&diffs).into_owned(),
            elapsed: began.elapsed(),
            agent_log: world.agent.log(),
            home: home_text,
        })
    }
}

/// One run of the suite.
#[derive(Debug)]
pub struct Run {
    /// Whether each test gave what the suite expects.
    pub tests: BTreeMap<String, bool>,
    /// What each test printed.
    outputs: BTreeMap<String, Vec<u8>>,
    /// `regression.diffs`: how outputs differ from what the suite expects.
    pub diffs: String,
    /// From start to end.
    pub elapsed: Duration,
    /// What the agent said.
    pub agent_log: String,
    /// Where it ran, which some outputs quote.
    home: String,
}

impl Run {
    /// How many tests gave what the suite expects.
    pub fn passed(&self) -> usize {
        self.tests.values().filter(|passed| **passed).count()
    }

    /// Tests that gave something else than the suite expects.
    pub fn failed(&self) -> Vec<&str> {
        self.tests.iter().filter(|(_, passed)| !**passed).map(|(name, _)| name.as_str()).collect()
    }

    /// Tests that differ from the run before: the name, and the difference in unified format.
    pub fn differs_from(&self, other: &Run) -> Result<Vec<(String, String)>> {
        let mut differing = Vec::new();
        for name in
            other.tests.keys().chain(self.tests.keys().filter(|name| !other.tests.contains_key(*name)))
        {
            let verdicts = (other.tests.get(name), self.tests.get(name));
            // Two runs that the suite accepts are alike, whatever of several expected outputs each gave.
            let alike = verdicts == (Some(&true), Some(&true))
                || verdicts.0 == verdicts.1 && self.output(name) == other.output(name);
            if !alike {
                differing.push((name.clone(), unified(&other.output(name), &self.output(name))?));
            }
        }
        Ok(differing)
    }

    fn output(&self, name: &str) -> String {
        let text = self.outputs.get(name).map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
        text.replace(&self.home, "HOME")
    }
}

/// An apt of one's own that sees the machine's Debian archives with their sources.
struct Apt {
    root: PathBuf,
}

impl Apt {
    fn new(root: &Path) -> Result<Self> {
        let apt = Self { root: root.to_owned() };
        let parts = root.join("apt/sources.list.d");
        std::fs::create_dir_all(&parts)?;
        std::fs::create_dir_all(root.join("apt/lists/partial"))?;
        let mut found = 0;
        for entry in std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
            found += with_sources(&entry.path(), &parts)?;
        }
        found += with_sources(Path::new("/etc/apt/sources.list"), &parts)?;
        ensure!(found > 0, "no Debian archive is configured in /etc/apt");
        apt.run("apt-get", &["update", "--quiet", "--quiet"])?;
        Ok(apt)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let apt = self.root.join("apt");
        run(Command::new(program)
            .args(["-o", "Dir::Etc::sourcelist=/dev/null"])
            .args(["-o", &format!("Dir::Etc::sourceparts={}", apt.join("sources.list.d").display())])
            .args(["-o", &format!("Dir::State::lists={}", apt.join("lists").display())])
            .args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="])
            .args(["-o", "APT::Sandbox::User=root"])
            .args(arguments)
            .current_dir(&self.root))
    }

    /// The source of the installed version, or of another one with the same major: a mirror may lack the newest. Answers
    /// which.
    fn fetch_source(&self, package: &str) -> Result<String> {
        let shown = self.run("apt-cache", &["showsrc", "--only-source", package])?;
        let mut versions = vec![package_version(package)?];
        for version in shown.lines().filter_map(|line| line.strip_prefix("Version: ")) {
            if !versions.iter().any(|known| known == version) {
                versions.push(version.to_owned());
            }
        }
        let mut failure = None;
        for version in versions {
            match self.run("apt-get", &["source", "--download-only", &format!("{package}={version}")]) {
                Ok(_) => return Ok(version),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.context("no version was tried")?)
    }
}

/// Writes a list of the machine's apt again, with sources beside packages. Answers how many archives of Debian it named.
fn with_sources(path: &Path, parts: &Path) -> Result<usize> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(0) };
    let name = path.file_name().context("a file has a name")?;
    if path.extension().is_some_and(|extension| extension == "sources") {
        let debian: Vec<String> = text
            .split("\n\n")
            .filter(|paragraph| paragraph.contains("Signed-By: /usr/share/keyrings/debian-archive"))
            .map(|paragraph| paragraph.replace("Types: deb\n", "Types: deb deb-src\n"))
            .collect();
        std::fs::write(parts.join(name), debian.join("\n\n"))?;
        return Ok(debian.len());
    }
    let debian: Vec<&str> =
        text.lines().filter(|line| line.starts_with("deb ") && line.contains("debian.org")).collect();
    let mut lines: String = debian.iter().map(|line| format!("{line}\n")).collect();
    lines.extend(debian.iter().map(|line| format!("deb-src {}\n", line.trim_start_matches("deb "))));
    std::fs::write(parts.join(name).with_extension("list"), lines)?;
    Ok(debian.len())
}

/// `15.18`.
fn server_version() -> Result<String> {
    let output = Command::new(bin_dir()?.join("postgres")).arg("--version").output().context("postgres")?;
    let text = String::from_utf8(output.stdout)?;
    let version = text.split_whitespace().nth(2).context("postgres --version names no version")?;
    Ok(version.to_owned())
}

/// The version of an installed package.
fn package_version(package: &str) -> Result<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .output()
        .context("dpkg-query")?;
    ensure!(output.status.success(), "{package} is not installed");
    Ok(String::from_utf8(output.stdout)?)
}

fn build_module(tests: &Path, dev: &Path, major: &str, module: &Path) -> Result<()> {
    let unfinished = module.with_extension("new");
    run(Command::new("gcc")
        .args(["-O1", "-fPIC", "-shared", "-w", "-I"])
        .arg(dev.join(format!("usr/include/postgresql/{major}/server")))
        .args(["-I", "/usr/include/postgresql"])
        .arg("-I")
        .arg(dev.join("usr/include/postgresql"))
        .arg("-o")
        .arg(&unfinished)
        .arg(tests.join("regress.c")))?;
    Ok(std::fs::rename(unfinished, module)?)
}

/// The first file with this ending.
fn found(dir: &Path, ending: &str) -> Result<PathBuf> {
    all(dir, ending)?.pop().with_context(|| format!("apt fetched no *{ending}"))
}

/// The files with this ending.
fn all(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect())
}

fn copy_tree(from: &Path, to: &Path) -> Result<String> {
    run(Command::new("cp").arg("--recursive").arg(from).arg(to))
}

/// Runs to the end; answers what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads `test boolean ... ok  20 ms` and its likes.
fn results(said: &str) -> BTreeMap<String, bool> {
    let mut tests = BTreeMap::new();
    for line in said.lines() {
        let Some((name, verdict)) = line.split_once(" ... ") else { continue };
        let name = name.trim().trim_start_matches("test ").trim();
        // `pg_regress` runs `test_setup` and its likes alone: their line has the same form.
        if name.contains(' ') || name.is_empty() {
            continue;
        }
        tests.insert(name.to_owned(), verdict.trim_start().starts_with("ok"));
    }
    tests
}

fn unified(before: &str, after: &str) -> Result<String> {
    let place = Scratch::new("diff")?;
    place.write("direct", before)?;
    place.write("lockgate", after)?;
    let output = Command::new("diff")
        .args(["--text", "-U3", "direct", "lockgate"])
        .current_dir(place.path())
        .output()
        .context("diff")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_regress_prints_is_read() {
        let said = "============== running regression test queries        ==============\n\
                    test tablespace                   ... ok          221 ms\n\
                    parallel group (3 tests):  char boolean name\n\
                    \x20    boolean                      ... ok          116 ms\n\
                    \x20    char                         ... FAILED (test process exited with exit code 2)   43 ms\n\
                    \x20    name                         ... FAILED       43 ms\n";
        let read: Vec<(String, bool)> = results(said).into_iter().collect();
        let expected = [("boolean", true), ("char", false), ("name", false), ("tablespace", true)];
        assert_eq!(read, expected.map(|(name, passed)| (name.to_owned(), passed)));
    }
}
