//! The command line: verbs, their help, and how each ends.
//!
//! The shape (verbs, flags, JSON, exit codes) is an interface that others script against; it is documented in
//! `userspace/docs/cli.md` and checked by `tests/cli.rs`. What a verb does is in the module of its name.

mod agent;
mod api;
mod approvals;
mod audit;
mod breakglass;
mod client;
mod custody;
mod doctor;
mod exit;
mod export;
mod grants;
mod handbook;
mod history;
mod inspect;
mod keeper;
mod login;
mod observed;
mod output;
mod permission;
mod policy;
mod proofs;
mod recording;
mod rehearse;
mod remote;
mod replay;
mod run;
mod search;
mod sessions;
mod show;
mod store;
mod tail;
mod targets;
mod text;
mod tls;
mod token;
mod tokens;
mod trust;
mod watch;

pub(crate) use exit::{Exit, failure};
pub(crate) use output::report;
pub(crate) use policy::{facts_of, shapes_of};

use crate::config::DEFAULT_PATH;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Examples stand before everything else: who asks for help wants to paste something.
const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

const EXIT_CODES: &str = "\
Exit codes:
  0  done        1  failed        2  usage        3  denied        4  timed out waiting
  lockgate run ends as its command does; 125 when the command was not started.";

/// Transparent interception proxy: decides, holds, masks and records what governed jobs do
#[derive(Debug, Parser)]
#[command(
    name = "lockgate",
    version,
    help_template = TEMPLATE,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  lockgate doctor                                  can this host do it; does capture work?
  lockgate agent --config /etc/lockgate/lockgate.yaml
  lockgate run -- psql -h db.internal shop         run a command governed
  lockgate approvals list                          who waits for what
  echo 'DROP TABLE t' | lockgate inspect sql       what lockgate makes of a statement
",
    after_help = EXIT_CODES,
)]
pub(crate) struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "LOCKGATE_CONFIG", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Certificates to trust when LOCKGATE_URL names an agent elsewhere, instead of the public ones
    #[arg(long, global = true, value_name = "FILE", env = "LOCKGATE_CA")]
    ca: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
#[command(help_template = TEMPLATE)]
enum Verb {
    Agent(agent::Arguments),
    Run(run::Arguments),
    Approvals(approvals::Arguments),
    Grants(permission::Arguments),
    Breakglass(breakglass::Arguments),
    Sessions(sessions::Arguments),
    Audit(audit::Arguments),
    Store(store::Arguments),
    Targets(targets::Arguments),
    Policy(policy::Arguments),
    Inspect(inspect::Arguments),
    Doctor(doctor::Arguments),
    Tls(tls::Arguments),
    Trust(trust::Arguments),
    Login(login::Arguments),
    Token(token::Arguments),
    Tokens(tokens::Arguments),
    Api(api::Arguments),
    Completions(handbook::Completions),
    Man(handbook::Man),
    #[command(hide = true)]
    Keeper(keeper::Arguments),
}

/// How listings are written.
#[derive(Clone, Copy, Debug, Args)]
struct OutputArgument {
    /// How to print: for people, or stable JSON
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables and sentences
    #[value(alias = "table")]
    Text,
    /// One JSON document
    Json,
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let config = &self.config;
        remote::trust(self.ca);
        // In a container of its own these two look at the host. Who may not is told by what they do next.
        if matches!(self.verb, Verb::Agent(_) | Verb::Doctor(_)) {
            let _ = lockgate_intercept::enter_host_cgroups();
        }
        match self.verb {
            Verb::Agent(arguments) => agent::run(config, &arguments),
            Verb::Run(arguments) => run::run(config, &arguments),
            Verb::Approvals(arguments) => approvals::run(config, arguments),
            Verb::Grants(arguments) => permission::run(config, arguments),
            Verb::Breakglass(arguments) => breakglass::run(config, arguments),
            Verb::Sessions(arguments) => sessions::run(config, arguments),
            Verb::Audit(arguments) => audit::run(config, arguments),
            Verb::Store(arguments) => store::run(config, arguments),
            Verb::Targets(arguments) => targets::run(config, arguments),
            Verb::Policy(arguments) => policy::run(config, arguments),
            Verb::Inspect(arguments) => inspect::run(arguments),
            Verb::Doctor(arguments) => doctor::run(config, arguments),
            Verb::Tls(arguments) => tls::run(arguments),
            Verb::Trust(arguments) => trust::run(config, arguments),
            Verb::Login(arguments) => login::run(config, arguments),
            Verb::Token(arguments) => token::run(config, arguments),
            Verb::Tokens(arguments) => tokens::run(config, arguments),
            Verb::Api(arguments) => api::run(config, arguments),
            Verb::Completions(arguments) => handbook::completions(&arguments),
            Verb::Man(arguments) => handbook::man(&arguments),
            Verb::Keeper(arguments) => keeper::run(&arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
