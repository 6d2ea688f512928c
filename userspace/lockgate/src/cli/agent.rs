//! `lockgate agent`: the service. Its parts are in [`crate::agent`].

use super::{Exit, TEMPLATE, client::Agent, failure, output};
use crate::{
    agent::{self, telemetry::LogFormat},
    config::{Client, Config},
};
use clap::Args;
use std::path::Path;

/// Run the agent: load the hooks, serve governed connections, take decisions
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate agent --config /etc/lockgate/lockgate.yaml
  lockgate agent --log lockgate_proxy=debug,info --log-format json
  lockgate agent --detach          take the hooks off this host
",
    after_help = "\
SIGHUP loads policies, logins and certificates again. SIGTERM ends sessions in order, within ten seconds, and leaves the
hooks in force: governed connections wait for the next agent as long as node.restart_grace says, and
are refused from then on until an agent runs again, or --detach.",
)]
pub(super) struct Arguments {
    /// Remove this configuration's hooks from the host, and end; jobs connect directly afterwards
    #[arg(long)]
    detach: bool,
    /// How log lines look
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or per module
    #[arg(long, value_name = "FILTER", env = "LOCKGATE_LOG", default_value = "info")]
    log: String,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> anyhow::Result<Exit> {
    if !nix::unistd::geteuid().is_root() {
        return Err(failure(Exit::Denied, "eBPF and cgroups need root: sudo lockgate agent …"));
    }
    if arguments.detach {
        let client = Client::read(config)?;
        let removed = lockgate_intercept::detach(&client.instance, None)?;
        // What the last agent left for the next one: there is none to come.
        lockgate_intercept::keeper::take(&client.store.keeper()).done();
        output::print(match removed {
            true => "hooks removed: nothing is governed any more\n",
            false => "there were no hooks to remove\n",
        })?;
        if !Agent::of(&client).get("/v1/status").is_err_and(|error| error.is_no_agent()) {
            eprintln!(
                "an agent still runs, and sees nothing any more: stop it, or restart it to govern again"
            );
        }
        return Ok(Exit::Done);
    }
    agent::telemetry::log(arguments.log_format, &arguments.log)?;
    agent::run(Config::read(config)?)?;
    Ok(Exit::Done)
}
