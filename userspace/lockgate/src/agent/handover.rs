//! The end of an agent, as governed connections see it: they wait for the next one, or are refused.

use super::Agent;
use anyhow::Context as _;
use lockgate_intercept::keeper::{self, Kept};
use std::process::Command;

/// Leaves the listeners with a keeper, if the configuration lets connections wait. Otherwise, and when no keeper can
/// be had, they are refused from now on. What is returned lives as long as the agent: the keeper counts from its end.
pub(super) fn hand_over(agent: &Agent) -> Option<Kept> {
    let grace = agent.config.restart_grace;
    if grace.is_zero() {
        agent.interceptor.refuse();
        return None;
    }
    match start_keeper(agent) {
        Ok(kept) => {
            tracing::info!(?grace, "governed connections wait for the next agent");
            Some(kept)
        }
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "governed connections are refused until the next agent runs"
            );
            agent.interceptor.refuse();
            None
        }
    }
}

fn start_keeper(agent: &Agent) -> anyhow::Result<Kept> {
    let listeners = agent.interceptor.hand_over().context("duplicating the listeners")?;
    // This very program, also when another one has been installed in its place.
    let mut command = Command::new("/proc/self/exe");
    command.arg("keeper").arg("--path").arg(agent.config.store.keeper());
    command.args(["--within", &agent.config.restart_grace.as_millis().to_string()]);
    keeper::hand_over(command, &listeners).context("starting the keeper of listeners")
}
