//! `lockgate token`: for those who dial lockgate itself, since no hook can see their sockets.
//!
//! The agent makes the token, records that it did, and tells nobody but root.

use super::{Exit, Output, OutputArgument, TEMPLATE, client::Agent, output};
use crate::agent::callers::TokenRequest;
use clap::{Args, ValueEnum};
use lockgate_model::{time::parse_duration, workload::IdentityKind};
use lockgate_proxy::caller::Network;
use serde_json::json;
use std::{net::IpAddr, path::Path, time::Duration};

/// Give a token to a sandbox whose sockets no hook can see (gVisor, Kata, a host without BPF)
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate token --target orders-db --caller sandbox/17 --from 10.1.2.3
  lockgate token --target orders-db --caller sandbox/17 --from 10.1.2.0/24 --output json | jq -r .expires
  PGPASSWORD=$(lockgate token --target orders-db --caller sandbox/17 --from 10.1.2.3 --for 15m) \\
    psql 'host=10.0.0.5 port=6432 user=app dbname=shop sslmode=verify-full sslrootcert=ca.crt'
",
    after_help = "\
The token stands in place of the password. It is for one target, is good for a short while, and only from the
addresses named here: from anywhere else it is refused. A session with it is shown everywhere as not
transparent: what made the connection was not seen.",
)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
    /// The target it is for; it needs `listen`
    #[arg(long, value_name = "NAME")]
    target: String,
    /// Who will carry it: rules see `caller:NAME`
    #[arg(long, value_name = "NAME")]
    caller: String,
    /// What kind of actor that is
    #[arg(long, value_enum, default_value_t = Kind::Agent)]
    kind: Kind,
    /// An address or prefix that it may be shown from; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = network)]
    from: Vec<Network>,
    /// How long it is good for; at most a day
    #[arg(long = "for", value_name = "DURATION", default_value = "15m", value_parser = parse_duration)]
    life: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Person,
    #[value(name = "service_account")]
    ServiceAccount,
    #[value(name = "ci_job")]
    CiJob,
    Agent,
}

impl From<Kind> for IdentityKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Person => Self::Person,
            Kind::ServiceAccount => Self::ServiceAccount,
            Kind::CiJob => Self::CiJob,
            Kind::Agent => Self::Agent,
        }
    }
}

fn network(text: &str) -> Result<Network, String> {
    let wrong = || "expected an address or a prefix, such as 10.1.2.3 or 10.1.2.0/24".to_owned();
    let (base, prefix) = match text.split_once('/') {
        Some((base, prefix)) => (base, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let base: IpAddr = base.parse().map_err(|_| wrong())?;
    let longest = if base.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(longest);
    // A token that is good from anywhere is bound to nothing.
    (1..=longest).contains(&prefix).then_some(Network { base, prefix }).ok_or_else(wrong)
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    let request = TokenRequest {
        target: arguments.target.as_str().into(),
        caller: arguments.caller,
        kind: arguments.kind.into(),
        from: arguments.from,
        seconds: arguments.life.as_secs(),
    };
    let answer = agent.post("/v1/tokens", &json!(request)).map_err(|error| error.into_failure())?;
    match arguments.output.output {
        Output::Json => output::print_json(&answer)?,
        Output::Text => output::print(&format!("{}\n", answer["token"].as_str().unwrap_or_default()))?,
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bound_to_addresses() {
        assert_eq!(network("10.1.2.3").unwrap().prefix, 32);
        assert_eq!(network("2001:db8::/32").unwrap().prefix, 32);
        for wrong in ["", "10.0.0.0/0", "10.0.0.0/33", "host", "10.0.0.1/x"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
