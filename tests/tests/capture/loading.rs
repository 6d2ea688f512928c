//! What it costs to load the programs: every start pays it, and the verifier's patience is bounded.
//!
//! Counted in instructions that the verifier walked, which are the same on a busy machine: no clock is read.

use anyhow::{Result, ensure};
use lockgate_intercept::{Verified, verified};

/// No program takes more: half of what the kernel refuses at (`BPF_COMPLEXITY_LIMIT_INSNS`, a million, linux/bpf.h), since
/// kernels count the same program differently. `lg_answers` takes 330,000 on 6.18, and a fifth of a second.
const ONE: u32 = 500_000;
/// All together.
const ALL: u32 = 750_000;

#[test]
fn the_verifier_walks_no_more_than_a_start_may_cost() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "capture tests need root: run `cargo xtask test` as root");
    let all = verified()?;
    for name in ["lg_connect4", "lg_connect6", "lg_sock_ops", "lg_egress", "lg_answers", "lg_interface"] {
        ensure!(all.iter().any(|one| one.program == name), "{name} was not loaded: {all:?}");
    }
    // Kernels before 5.16 do not tell; nothing else is a reason to say nothing.
    let counted: Vec<(&str, u32)> = all
        .iter()
        .filter_map(|Verified { program, instructions }| Some((*program, (*instructions)?)))
        .collect();
    ensure!(counted.len() == all.len(), "not counted by this kernel: {all:?}");
    println!("{counted:?}");
    for (program, instructions) in &counted {
        ensure!(*instructions > 0 && *instructions <= ONE, "{program}: {instructions} of at most {ONE}");
    }
    let sum: u32 = counted.iter().map(|(_, instructions)| instructions).sum();
    ensure!(sum <= ALL, "together {sum} of at most {ALL}: {counted:?}");
    Ok(())
}
