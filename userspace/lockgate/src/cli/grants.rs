//! `lockgate policy grants`: the statements that take from an upstream role what policy masks, worked out from the policy
//! and the target's own catalogue. They are printed, never run: privileges are their database's owner's business.

use super::{
    Exit, Output, inspect,
    output::{self},
    policy::{Files, load, rejected},
    text,
};
use crate::{
    agent::targets,
    config::{Config, TargetConfig},
};
use anyhow::{Context as _, bail};
use clap::Args;
use lockgate_inspect::mask::{MaskKeys, MaskPlan};
use lockgate_policy::document::Given;
use serde_json::json;
use std::path::Path;

/// What to work out grants for.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The target, as the configuration names it
    #[arg(long, value_name = "NAME")]
    target: String,
    /// The database: grants are made in each by itself
    #[arg(long, value_name = "NAME")]
    database: String,
    /// The role that jobs work as; by default the target's upstream user
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    #[command(flatten)]
    files: Files,
}

pub(super) fn run(config: &Path, arguments: Arguments, format: Output) -> anyhow::Result<Exit> {
    let config = config.to_owned();
    // Views are parsed, which recurses.
    inspect::on_deep_stack(move || print(&config, arguments, format))
}

fn print(config: &Path, arguments: Arguments, format: Output) -> anyhow::Result<Exit> {
    let parsed = Config::read(config).context("the configuration says where the target is")?;
    let Some(target) = parsed.targets.iter().find(|target| target.target.name.as_str() == arguments.target)
    else {
        let known: Vec<&str> = parsed.targets.iter().map(|target| target.target.name.as_str()).collect();
        bail!("no target is called {:?}; the configuration has {}", arguments.target, known.join(", "));
    };
    let policy = match load(&arguments.files.of(config)?)? {
        Ok(loaded) => loaded.policy,
        Err(errors) => return rejected(&errors, format),
    };
    let Some(plan) = plan(&parsed, target, &arguments.database, &policy)? else {
        bail!("the policy masks no column of {}", arguments.target);
    };
    let role = arguments.role.unwrap_or_else(|| targets::upstream_user(target));
    let grants = plan.grants(&role);
    match format {
        Output::Json => output::print_json(&json!({
            "target": arguments.target, "database": arguments.database, "role": role,
            "statements": grants.statements, "owned": grants.owned, "readable": plan.readable(),
        }))?,
        Output::Text => output::print(&script(&arguments.target, &arguments.database, &role, &grants))?,
    }
    Ok(Exit::Done)
}

/// The masks of a target worked out against one of its databases; None when it has none.
pub(super) fn plan(
    config: &Config,
    target: &TargetConfig,
    database: &str,
    policy: &lockgate_policy::CompiledPolicy,
) -> anyhow::Result<Option<MaskPlan>> {
    let given: Given = serde_json::from_value(json!({
        "target": { "name": target.target.name.as_str(), "tags": target.target.tags },
        "statement": "SELECT 1",
        "database": database,
    }))
    .context("the target as a policy's event")?;
    let Some(spec) = policy.masks_for_given(&given) else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let snapshot = runtime.block_on(async {
        let catalogue = targets::catalogue(config, target, database).await?;
        anyhow::Ok(catalogue.load().await?)
    })?;
    Ok(Some(MaskPlan::new(&spec, snapshot, &MaskKeys::new())))
}

fn script(target: &str, database: &str, role: &str, grants: &lockgate_inspect::mask::Grants) -> String {
    let mut out = format!(
        "-- Takes from the role {} what policy masks on {}, database {}. Run it as the owner of the tables.\n",
        text::line(role),
        text::line(target),
        text::line(database)
    );
    for owned in &grants.owned {
        out.push_str(&format!(
            "-- {} is the upstream role's own: an owner can grant itself again what is revoked. Give it to another role first.\n",
            text::line(owned)
        ));
    }
    out.push_str("BEGIN;\n");
    for statement in &grants.statements {
        out.push_str(statement);
        out.push('\n');
    }
    out.push_str("COMMIT;\n");
    out
}
