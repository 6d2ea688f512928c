//! Pods of a real kubelet under lockgate, installed as it is shipped: the plain manifests first, then the chart.
//!
//! An unmodified psql in a pod is captured, held, approved, forwarded and recorded with the pod's names; its upstream
//! connection leaves from the pod; plain addresses, headless services and cluster addresses; pods that were there before
//! lockgate, that come, and that go. `cargo xtask cluster` builds what it needs and runs it; one step after the other, since
//! each stands on the one before.

mod node;
mod release;
mod shop;
mod steps;

use anyhow::Result;
use shop::Shop;
use std::time::Instant;

type Step = fn(&mut Shop, &tokio::runtime::Runtime) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("a pod runs before lockgate does", steps::a_pod_before),
    ("the plain manifests bring an agent to the node", steps::plain_manifests),
    ("it keeps exactly the privileges that the manifest lists", steps::privileges),
    ("it may read pods, and nothing else of the API", steps::rights),
    ("a pod found at start is held, approved by webhook, forwarded, recorded", steps::found_at_start),
    ("a pod that comes is held, approved with kubectl exec", steps::comes_and_is_approved),
    ("a pod's first connection, made at once, is captured or refused", steps::first_connection),
    ("a denied statement reaches no target", steps::denied),
    ("headless services and cluster addresses", steps::services),
    ("the upstream connection leaves from the pod", steps::from_the_pod),
    ("what a network policy denies to the pod stays denied through lockgate", steps::network_policy),
    ("what is no target is left alone", steps::left_alone),
    ("a pod that goes takes its listener along", steps::goes),
    ("without the agent pods are refused, and with it served again", steps::agent_restarts),
    ("coverage: nothing went past", steps::coverage),
    ("the chart in place of the manifests", release::chart),
    ("an upgrade of the chart under load: nobody refused, nobody direct", release::upgrade),
    ("uninstalled, nothing of it is left, and pods are refused until --detach", release::uninstall),
];

fn main() -> std::process::ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    match run(&runtime) {
        Ok(passed) => {
            println!("test result: ok. {passed} passed; 0 failed; 0 ignored");
            std::process::ExitCode::SUCCESS
        }
        Err((passed, error)) => {
            eprintln!("{error:?}");
            println!("test result: FAILED. {passed} passed; 1 failed; 0 ignored");
            std::process::ExitCode::FAILURE
        }
    }
}

/// The steps, until one fails: how many passed.
fn run(runtime: &tokio::runtime::Runtime) -> Result<usize, (usize, anyhow::Error)> {
    let started = Instant::now();
    let mut shop = runtime.block_on(async { Shop::open() }).map_err(|error| (0, error))?;
    println!("cluster ... ok ({} s)", started.elapsed().as_secs());
    for (passed, (what, step)) in STEPS.iter().enumerate() {
        let started = Instant::now();
        if let Err(error) = step(&mut shop, runtime) {
            println!("test {what} ... FAILED");
            eprintln!("{}", shop.state());
            return Err((passed, error));
        }
        println!("test {what} ... ok ({:.1} s)", started.elapsed().as_secs_f32());
    }
    Ok(STEPS.len())
}
