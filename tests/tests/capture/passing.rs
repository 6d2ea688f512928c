//! Sockets that change hands, the listener's port, and ways out of the cgroup: each with its hook, and once more
//! without it.

use crate::harness::{Agent, Evader, Hook, Lab};
use anyhow::{Context as _, Result};
use lockgate_tests::matrix::USER;
use std::{fs, os::unix::fs::chown, path::Path};

/// From one job to another, over a socket in the file system.
fn pass(from: &mut Evader, to: &mut Evader, path: &Path) -> Result<()> {
    from.begin(&format!("pass {}", path.display()))?;
    assert_eq!(from.outcome()?, "waiting");
    assert_eq!(to.act(&format!("take {}", path.display()))?, "done");
    assert_eq!(from.outcome()?, "done");
    Ok(())
}

#[test]
fn an_unconnected_socket_is_redirected_whoever_made_it_and_whoever_connects_it() -> Result<()> {
    let lab = Lab::new()?;
    let directory = tempfile::tempdir()?;
    let address = lab.server.at("127.0.0.1");
    let attempt = |name: &str, maker: &Path, user: &Path| -> Result<String> {
        let (mut from, mut to) = (Evader::start(maker)?, Evader::start(user)?);
        assert_eq!(from.act("socket 2 1 6")?, "done");
        pass(&mut from, &mut to, &directory.path().join(name))?;
        to.act(&format!("ask-kept {address}"))
    };
    let (inside, outside) = (lab.inside(), lab.outside());
    assert_eq!(attempt("before-in", &outside, &inside)?, "direct", "without an agent");
    let mut agent = lab.agent()?;
    assert_eq!(attempt("in", &outside, &inside)?, "proxy", "made outside, connected by the job");
    assert_eq!(attempt("out", &inside, &outside)?, "proxy", "made by the job, connected outside");
    // The filter sits on the cgroup that the socket was made in; a living agent would cut what its maker still holds.
    lab.take_away(&mut agent, &[Hook::Packet, Hook::Lsm])?;
    assert_eq!(attempt("out-dead", &inside, &outside)?, "refused");
    lab.detach(Hook::Socket("lg_sock_create"))?;
    assert_eq!(attempt("out-without", &inside, &outside)?, "direct", "without the tag of its maker");
    assert_eq!(attempt("in-dead", &outside, &inside)?, "refused");
    lab.detach(Hook::Socket("lg_connect4"))?;
    assert_eq!(attempt("in-without", &outside, &inside)?, "direct", "without the hook");
    Ok(())
}

#[test]
fn a_redirected_socket_is_not_used_for_another_dial_but_without_the_hook() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let proxy = format!("127.0.0.1:{}", agent.port);
    let mut job = Evader::start(&lab.inside())?;
    let redirected = |job: &mut Evader| -> Result<()> {
        assert_eq!(job.act("socket 2 1 6")?, "done");
        assert_eq!(job.act(&format!("ask-kept {}", lab.server.at("127.0.0.1")))?, "proxy");
        assert_eq!(job.act("disconnect")?, "done");
        Ok(())
    };
    redirected(&mut job)?;
    assert_eq!(job.act(&format!("ask-kept {proxy}"))?, "EPERM");
    redirected(&mut job)?;
    lab.detach(Hook::Socket("lg_connect4"))?;
    assert_eq!(job.act(&format!("ask-kept {proxy}"))?, "proxy", "the hook is what forgets the first dial");
    assert!(agent.counter("attributed")? >= 3);
    Ok(())
}

#[test]
fn the_listener_is_neither_dialled_nor_replaced_but_without_its_hooks() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let (v4, v6) = (format!("127.0.0.1:{}", agent.port), format!("[::1]:{}", agent.port));
    let any = format!("0.0.0.0:{}", agent.port);
    let mut job = Evader::start(&lab.inside())?;
    let mut outside = Evader::start(&lab.outside())?;
    for address in [&v4, &v6, &any] {
        assert_eq!(job.act(&format!("dial {address}"))?, "EPERM");
        for job in [&mut job, &mut outside] {
            assert_eq!(job.act(&format!("bind-shared {address}"))?, "EPERM", "SO_REUSEPORT, {address}");
        }
    }
    lab.detach(Hook::Socket("lg_connect4"))?;
    assert_eq!(job.act(&format!("dial {v4}"))?, "connected", "and is not served: no kernel facts");
    agent.next("unattributed")?;
    // Dead, its port is still nobody's; and whoever gets it all the same is sent nobody.
    agent.kill()?;
    assert_eq!(job.act(&format!("bind-shared {v6}"))?, "EPERM");
    lab.detach(Hook::Socket("lg_bind6"))?;
    assert_eq!(outside.act(&format!("bind-shared {v6}"))?, "done", "the hook is what guards it");
    assert_eq!(job.act(&format!("ask {}", lab.server.at("::1")))?, "refused", "an impostor has no tag");
    Ok(())
}

#[test]
fn a_child_born_into_a_governed_cgroup_is_governed_from_its_first_instruction() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    let address = lab.server.at("127.0.0.1");
    let mut outside = Evader::start(&lab.outside())?;
    let born = format!("born-in {} {address}", lab.inside().display());
    for _ in 0..20 {
        assert_eq!(outside.act(&born)?, "proxy");
    }
    let deeper = lab.inside().join("child");
    fs::create_dir(&deeper)?;
    assert_eq!(outside.act(&format!("born-in {} {address}", deeper.display()))?, "proxy");
    drop(agent);
    assert_eq!(outside.act(&born)?, "refused");
    Ok(())
}

#[test]
fn a_user_with_a_delegated_cgroup_does_not_get_out_of_it() -> Result<()> {
    let lab = Lab::new()?;
    let _agent = lab.agent()?;
    let address = lab.server.at("127.0.0.1");
    let inside = lab.inside();
    for part in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        chown(inside.join(part), Some(USER), Some(USER)).with_context(|| part.to_owned())?;
    }
    let mut job = Evader::start(&inside)?;
    assert_eq!(job.act(&format!("become {USER}"))?, "done");
    let outside = lab.outside();
    let out = outside.display();
    for way in [format!("join {out}"), format!("born-in {out} {address}"), format!("make {out}/mine")] {
        let outcome = job.act(&way)?;
        assert!(outcome.contains("Permission denied"), "{way}: {outcome}");
    }
    // Below its own it may do what it likes, and stays governed.
    let child = inside.join("child");
    assert_eq!(job.act(&format!("make {}", child.display()))?, "done");
    assert_eq!(job.act(&format!("born-in {} {address}", child.display()))?, "proxy");
    assert_eq!(job.act(&format!("join {}", child.display()))?, "done");
    assert_eq!(job.act(&format!("ask {address}"))?, "proxy");
    Ok(())
}

#[test]
fn root_that_leaves_its_cgroup_keeps_its_old_sockets_governed() -> Result<()> {
    let lab = Lab::new()?;
    let _agent: Agent = lab.agent()?;
    let address = lab.server.at("127.0.0.1");
    let mut job = Evader::start(&lab.inside())?;
    assert_eq!(job.act("socket 2 1 6")?, "done");
    assert_eq!(job.act(&format!("join {}", lab.outside().display()))?, "done");
    assert_eq!(job.act(&format!("ask-kept {address}"))?, "proxy");
    // This is what root on the node can do; the threat model says so, and what answers it.
    assert_eq!(job.act(&format!("ask {address}"))?, "direct");
    Ok(())
}
