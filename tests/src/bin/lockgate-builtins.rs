//! Writes the list of built-in functions that change nothing, from the installed server and from those in the directories
//! that are named: `lockgate-builtins --out FILE [BIN…]`. `cargo xtask builtins` fetches them and drives it.

use anyhow::{Context, Result};
use clap::Parser;
use lockgate_tests::{
    builtins,
    postgres::{PostgresOptions, TestPostgres},
};
use std::{collections::BTreeMap, path::PathBuf};

#[derive(Parser)]
struct Arguments {
    /// Where the list goes
    #[arg(long)]
    out: PathBuf,
    /// Directories with initdb and postgres of other majors
    bins: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let Arguments { out, bins } = Arguments::parse();
    let mut servers = BTreeMap::new();
    let mut versions = Vec::new();
    let options = bins.into_iter().map(|bin| PostgresOptions::new().bin(bin));
    for options in std::iter::once(PostgresOptions::new()).chain(options) {
        let server = TestPostgres::start(options)?;
        let (major, names) = builtins::names(&server)?;
        let version = server.psql("SHOW server_version")?;
        println!("PostgreSQL {version}: {} names", names.len());
        versions.push(version.split(' ').next().unwrap_or_default().to_owned());
        servers.insert(major, names);
    }
    versions.sort();
    let list = builtins::merged(&servers)?;
    println!("{} of them change nothing", list.len());
    std::fs::write(&out, builtins::written(&list, &versions)?).with_context(|| out.display().to_string())
}
