//! `lockgate trust`: clients come to trust the CA that issues what lockgate shows them.
//!
//! It reads the configuration and needs no agent; what it does, `crate::trust` does.

use super::{Exit, Output, OutputArgument, TEMPLATE, output};
use crate::{
    config::{ClientTls, Config},
    trust::{self, Authority, Environment, Outcome, Store},
};
use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use lockgate_intercept::MountNamespace;
use lockgate_model::SecretRef;
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Have clients trust lockgate's CA: a host, one job, or containers without changing their image
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate trust show                              which CAs, and until when
  lockgate trust system                            everything on this host
  eval \"$(lockgate trust env)\"                     this shell and what it starts
  lockgate trust mount --pid 4711                  the container of that process
  lockgate trust mount --cgroup /kubepods.slice    every container below
",
    after_help = "\
The CAs are those of `client_tls: { ca: … }` in the configuration, unless --certificate names one.
Only certificates are handed out, never a key.",
)]
pub(super) struct Arguments {
    /// A CA's certificate (PEM), instead of those of the configuration; may be repeated
    #[arg(long, global = true, value_name = "FILE")]
    certificate: Vec<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
#[command(help_template = TEMPLATE)]
enum Verb {
    Show(Show),
    System(System),
    Env(Env),
    Mount(Mount),
}

/// Show the CAs that clients have to trust
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate trust show
  lockgate trust show --pem > lockgate-ca.pem      for a Dockerfile, a ConfigMap, another host
  lockgate trust show --output json
",
)]
struct Show {
    #[command(flatten)]
    output: OutputArgument,
    /// Print the certificates themselves
    #[arg(long)]
    pem: bool,
}

/// Add the CAs to this host's trust store, by the distribution's own tool
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate trust system
  lockgate trust system --remove
",
    after_help = "\
Debian, Fedora, SUSE, Alpine and their like. Programs that bring certificates of their own (Node,
Python's requests, some Java) look at variables: lockgate trust env.",
)]
struct System {
    /// Take away what was added before
    #[arg(long)]
    remove: bool,
}

/// Write a bundle, and print the variables that have programs use it
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  eval \"$(lockgate trust env)\"
  lockgate trust env --directory ~/.lockgate-trust >> ~/.profile
  lockgate trust env --output json                 for a job's or a pod's definition
",
    after_help = "\
For curl, git, Go, OpenSSL, Python, Node, Rust, AWS's tools, and Java where keytool is installed.",
)]
struct Env {
    #[command(flatten)]
    output: OutputArgument,
    /// Where bundle.pem, ca.pem and truststore go
    #[arg(long, value_name = "DIR", default_value = "/etc/lockgate/trust")]
    directory: PathBuf,
}

/// Cover the bundles that containers see with copies that have the CAs; their images stay as they are
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate trust mount --pid 4711
  lockgate trust mount --cgroup /kubepods.slice/kubepods-pod3f1c.slice
  lockgate trust mount --pid 4711 --remove
",
    after_help = "\
Root's. The covers are read-only, seen by that container alone, and gone with it. Processes that run
already go on with what they have read.",
)]
struct Mount {
    #[command(flatten)]
    output: OutputArgument,
    /// A process of the container; may be repeated
    #[arg(long, value_name = "PID", required_unless_present = "cgroup")]
    pid: Vec<u32>,
    /// A cgroup: every container with a process in it or below
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<PathBuf>,
    /// Take the covers away
    #[arg(long)]
    remove: bool,
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let authorities = || authorities(config, &arguments.certificate);
    match arguments.verb {
        Verb::Show(show) => show.run(&authorities()?),
        Verb::System(System { remove: false }) => {
            for file in Store::of_host()?.add(&authorities()?)? {
                output::print(&format!("added {}\n", file.display()))?;
            }
            Ok(Exit::Done)
        }
        Verb::System(System { remove: true }) => {
            for file in Store::of_host()?.remove()? {
                output::print(&format!("removed {}\n", file.display()))?;
            }
            Ok(Exit::Done)
        }
        Verb::Env(env) => env.run(&authorities()?),
        Verb::Mount(mount) if mount.remove => mount.run(trust::uncover),
        Verb::Mount(mount) => {
            let authorities = authorities()?;
            mount.run(|namespace| trust::cover(namespace, &authorities))
        }
    }
}

/// What is to be trusted, each once.
fn authorities(config: &Path, named: &[PathBuf]) -> anyhow::Result<Vec<Authority>> {
    let files: BTreeSet<PathBuf> =
        if named.is_empty() { configured(config)? } else { named.iter().cloned().collect() };
    let (mut known, mut all) = (BTreeSet::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for authority in Authority::all_of(&text).with_context(|| file.display().to_string())? {
            if known.insert(authority.fingerprint()) {
                all.push(authority);
            }
        }
    }
    Ok(all)
}

/// Files of CAs that issue what clients are shown.
fn configured(config: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let config = Config::read(config)?;
    let mut files = BTreeSet::new();
    for target in &config.targets {
        match &target.client_tls {
            Some(ClientTls::Issue { ca: SecretRef::File(file), .. }) => drop(files.insert(file.into())),
            Some(ClientTls::Issue { ca: _, .. }) => bail!(
                "the CA of {} is not in a file: save its certificate and name it with --certificate",
                target.target.name
            ),
            // Who issued that is trusted already, or lockgate does not know them.
            Some(ClientTls::Certificate { .. }) | None => {}
        }
    }
    ensure!(
        !files.is_empty(),
        "no target has `client_tls: {{ ca: … }}`: there is nothing to trust. `lockgate tls ca` makes a CA; --certificate \
         names one"
    );
    Ok(files)
}

impl Show {
    fn run(&self, authorities: &[Authority]) -> anyhow::Result<Exit> {
        if self.pem {
            let pem: String = authorities.iter().map(Authority::pem).collect();
            output::print(&pem)?;
            return Ok(Exit::Done);
        }
        match self.output.output {
            Output::Json => {
                let all: Vec<_> = authorities
                    .iter()
                    .map(|authority| {
                        json!({
                            "subject": authority.subject(),
                            "sha256": authority.fingerprint(),
                            "not_after": authority.until().to_string(),
                            "pem": authority.pem(),
                        })
                    })
                    .collect();
                output::print_json(&json!({ "authorities": all }))?;
            }
            Output::Text => {
                let mut table = output::Table::new(&["SUBJECT", "VALID UNTIL", "SHA-256"]);
                for authority in authorities {
                    let until = authority.until().strftime("%Y-%m-%d").to_string();
                    table.row(vec![authority.subject().to_owned(), until, authority.fingerprint()]);
                }
                output::print(&table.render())?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Env {
    fn run(&self, authorities: &[Authority]) -> anyhow::Result<Exit> {
        let directory = std::path::absolute(&self.directory)?;
        let environment = Environment::write(&directory, authorities)?;
        if let Some(why) = &environment.without_java {
            eprintln!("lockgate: nothing for Java: {why}");
        }
        match self.output.output {
            Output::Json => {
                let variables: serde_json::Map<String, serde_json::Value> = environment
                    .variables
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .collect();
                output::print_json(&variables)?;
            }
            Output::Text => {
                for (name, value) in &environment.variables {
                    output::print(&format!("export {name}={}\n", quoted(value)))?;
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// For a POSIX shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

impl Mount {
    fn run(&self, act: impl Fn(&MountNamespace) -> Vec<Outcome>) -> anyhow::Result<Exit> {
        ensure!(nix::unistd::geteuid().is_root(), "changing what a container sees is root's: try with sudo");
        let mut pids: BTreeSet<u32> = BTreeSet::new();
        for cgroup in &self.cgroup {
            processes(&directory(cgroup)?, &mut pids)?;
        }
        let (mut seen, mut rows, mut failed) = (BTreeSet::new(), Vec::new(), false);
        for pid in pids.iter().chain(&self.pid) {
            let namespace = match MountNamespace::of(*pid) {
                Ok(namespace) => namespace,
                // Of a cgroup's processes some end while one looks.
                Err(_) if !self.pid.contains(pid) => continue,
                Err(error) => return Err(error).with_context(|| format!("process {pid}")),
            };
            if namespace.is_own()? {
                ensure!(
                    !self.pid.contains(pid),
                    "process {pid} is in no container, it sees this host's files: lockgate trust system, or lockgate trust env"
                );
                continue;
            }
            if seen.insert(namespace.id()?) {
                rows.extend(act(&namespace).into_iter().map(|outcome| (*pid, outcome)));
            }
        }
        if seen.is_empty() {
            bail!("no container there: nothing was done");
        }
        match self.output.output {
            Output::Json => {
                let all: Vec<_> = rows
                    .iter()
                    .map(|(pid, outcome)| {
                        let mut row = json!(outcome);
                        row["pid"] = json!(pid);
                        row
                    })
                    .collect();
                output::print_json(&json!({ "containers": seen.len(), "paths": all }))?;
            }
            Output::Text => {
                let mut table = output::Table::new(&["PID", "PATH", "STATE"]);
                for (pid, outcome) in &rows {
                    table.row(vec![pid.to_string(), outcome.path.to_owned(), outcome.state().to_owned()]);
                }
                output::print(&table.render())?;
            }
        }
        for (pid, outcome) in &rows {
            if let Some(error) = outcome.error() {
                eprintln!("lockgate: process {pid}, {}: {error}", outcome.path);
                failed = true;
            }
        }
        Ok(if failed { Exit::Failed } else { Exit::Done })
    }
}

/// A cgroup's directory, whether it is named as the kernel does or by its path.
fn directory(cgroup: &Path) -> anyhow::Result<PathBuf> {
    if cgroup.join("cgroup.procs").exists() {
        return Ok(cgroup.to_owned());
    }
    let below = lockgate_intercept::cgroup2_root()?.join(cgroup.strip_prefix("/").unwrap_or(cgroup));
    ensure!(below.join("cgroup.procs").exists(), "{}: no such cgroup", cgroup.display());
    Ok(below)
}

fn processes(cgroup: &Path, pids: &mut BTreeSet<u32>) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(cgroup.join("cgroup.procs")).with_context(|| cgroup.display().to_string())?;
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // It may be gone by now.
            let _ = processes(&entry.path(), pids);
        }
    }
    Ok(())
}
