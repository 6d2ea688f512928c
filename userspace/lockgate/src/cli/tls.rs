//! `lockgate tls ca`: a CA for whoever has none, for the certificates that lockgate issues.
//!
//! It needs no agent, no configuration and no root. It writes two files, overwrites nothing, and says what to do with them.

use super::{Exit, TEMPLATE};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use lockgate_model::time::parse_duration;
use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Ten years: whoever trusts it has to be told of another one. Leaves live for a day.
const VALIDITY: &str = "3650d";
/// RFC 5280 dates go further; a CA that outlives the machines is a mistake in the unit.
const MAX_VALIDITY: Duration = Duration::from_secs(30 * 366 * 24 * 3600);

/// Make what TLS needs, for whoever has none
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate tls ca --directory /etc/lockgate/tls
  lockgate tls ca --directory ./tls --validity 30d
",
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Ca(Ca),
}

/// Make a CA: ca.crt, which jobs (or servers) trust, and ca.key, which only the agent reads
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate tls ca --directory /etc/lockgate/tls
  lockgate tls ca --directory /etc/lockgate/logins --name 'lockgate logins, build farm'
",
    after_help = "\
Make one for the certificates that jobs are shown (client_tls) and another one for lockgate's own logins on
targets (client_certificate): who trusts the one should not have to trust the other.",
)]
struct Ca {
    /// Where the two files go; made when it is not there
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// What it is called, in certificates
    #[arg(long, value_name = "NAME", default_value = "lockgate CA")]
    name: String,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = VALIDITY, value_parser = parse_duration)]
    validity: Duration,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.verb {
        Verb::Ca(ca) => ca.make(),
    }
}

impl Ca {
    fn make(&self) -> anyhow::Result<Exit> {
        anyhow::ensure!(
            (Duration::from_secs(60)..=MAX_VALIDITY).contains(&self.validity),
            "--validity: expected one minute to thirty years"
        );
        anyhow::ensure!(!self.name.trim().is_empty(), "--name: a CA needs a name");
        let directory = std::path::absolute(&self.directory).context("--directory")?;
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let made = lockgate_proxy::tls::new_authority(&self.name, self.validity)?;
        // The key first: a certificate without its key would be trusted for nothing.
        write(&key, 0o600, made.key.expose())?;
        if let Err(error) = write(&certificate, 0o644, &made.certificate) {
            let _ = std::fs::remove_file(&key);
            return Err(error);
        }
        let (certificate, key) = (certificate.display(), key.display());
        print!(
            "{certificate}  for everybody who is to trust it\n{key}  for the agent alone (mode 0600)\n\n\
             Certificates for clients, in the configuration of a target:\n  \
             client_tls: {{ ca: {certificate}, ca_key: {key} }}\n\
             and for the job:\n  \
             export PGSSLROOTCERT={certificate} PGSSLMODE=verify-full\n\n\
             Or certificates for lockgate's logins on a target:\n  \
             credential: {{ user: ROLE, client_certificate: {{ ca: {certificate}, ca_key: {key} }} }}\n\
             and on the server, ssl_ca_file = '{certificate}' and in pg_hba.conf:\n  \
             hostssl all ROLE ADDRESS cert\n"
        );
        Ok(Exit::Done)
    }
}

fn write(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("{} (nothing is overwritten)", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())?;
    file.sync_all().with_context(|| path.display().to_string())
}
