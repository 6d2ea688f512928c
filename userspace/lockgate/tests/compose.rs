//! The Compose quick start without an engine: its files are there, its configuration and its policy are ones that lockgate
//! takes, and its parts name each other rightly. What an engine makes of it is not seen here.

use lockgate_policy::yaml;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose")
}

fn read(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn parsed(name: &str) -> Value {
    yaml::parse(name, &read(name)).unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

#[test]
fn every_file_that_is_mounted_is_there() {
    let compose = parsed("compose.yaml");
    let mut seen = 0;
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            if source.starts_with('.') {
                assert!(directory().join(source).exists(), "{name}: {source}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn the_parts_name_each_other_rightly() {
    let (compose, agent, dex) = (parsed("compose.yaml"), parsed("lockgate.yaml"), parsed("dex/config.yaml"));
    let services = &compose["services"];
    let address = services["postgres"]["networks"]["shop"]["ipv4_address"].as_str().unwrap();
    assert_eq!(agent["targets"][0]["addresses"][0], format!("{address}:5432"));
    assert_eq!(services["job"]["environment"]["PGHOST"], address);
    let slice = services["job"]["cgroup_parent"].as_str().unwrap();
    assert!(
        agent["govern"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["cgroup"].as_str().unwrap().ends_with(slice))
    );
    let job = services["job"].to_string();
    assert!(!job.contains("secrets") && !job.contains("PASSWORD"), "the job knows a password: {job}");
    // The provider and the agent: one issuer, one client, one secret, the address it sends people back to.
    let provider = &agent["login"]["providers"][0];
    let client = &dex["staticClients"][0];
    assert_eq!(provider["oidc"]["issuer"], dex["issuer"]);
    assert_eq!(provider["oidc"]["client_id"], client["id"]);
    assert_eq!(client["secret"].as_str().unwrap(), read("secrets/dex-client.secret"));
    let back = format!(
        "{}/login/{}/callback",
        agent["api"]["public_url"].as_str().unwrap(),
        provider["name"].as_str().unwrap()
    );
    assert_eq!(client["redirectURIs"][0], back);
    let known: Vec<&str> = dex["staticPasswords"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["email"].as_str().unwrap())
        .collect();
    for group in agent["login"]["groups"]["approvers"].as_array().unwrap() {
        assert!(known.contains(&group.as_str().unwrap()), "{group} cannot log in");
    }
    assert!(read("postgres/shop.sql").contains(&format!("'{}'", read("secrets/app.password"))));
}

#[test]
fn lockgate_takes_its_configuration_and_policy_and_masks_and_approvals_are_on() {
    let scratch = tempfile::tempdir().unwrap();
    let policies = scratch.path().join("policies");
    fs::create_dir_all(&policies).unwrap();
    fs::create_dir_all(scratch.path().join("secrets")).unwrap();
    let default = directory().join("../../../policies/default.yaml");
    fs::copy(default, policies.join("default.yaml")).unwrap();
    for secret in ["app.password", "dex-client.secret"] {
        fs::copy(directory().join("secrets").join(secret), scratch.path().join("secrets").join(secret))
            .unwrap();
    }
    let config = scratch.path().join("lockgate.yaml");
    // Nothing leaves this host: the database is one that is not there.
    fs::write(&config, read("lockgate.yaml").replace("172.31.77.10:5432", "127.0.0.1:9")).unwrap();
    let lockgate = |words: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_lockgate"))
            .args(words)
            .env("LOCKGATE_CONFIG", &config)
            .output()
            .unwrap()
    };
    for verb in ["check", "test"] {
        let out = lockgate(&["policy", verb]);
        assert!(out.status.success(), "{verb}: {out:?}");
    }
    // Read whole, it fails for the database that is not there, and for nothing that is written.
    let out = lockgate(&["policy", "grants", "--target", "orders-db", "--database", "shop"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!said.contains("lockgate.yaml:"), "the configuration is refused: {said}");
}
