//! The configuration as a table: what is good, and what each mistake is told.

use super::*;
use lockgate_intercept::{Egress, Governed};
use lockgate_model::session::{DefaultEffect, Mode};

/// A good file; cases replace parts of it.
const GOOD: &str = r#"node: { name: build-7 }
govern:
- { cgroup: /lockgate/run }
- { systemd_unit: "actions.runner.*.service" }
- { uid: [1001] }
targets:
- name: orders-db
  protocol: postgres
  addresses: ["127.0.0.1:5432", "10.20.0.0/16:5432", "orders-db.internal:5432"]
  tags: { env: production, pci: "true" }
  upstream: { tls: disable, credential: { user: app, password: { file: secret } } }
policies: ["policies/"]
store: "sled:store"
webhooks:
- { name: approvals, url: "http://127.0.0.1:9000/hook", secret: { file: secret }, decision_secret: { file: secret }, speaks_for: [dba] }
api: { listen: "127.0.0.1:8420", local_approvers: { 1000: [dba] } }
run: { allow_uids: [1001] }
"#;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::create_dir(dir.path().join("policies")).unwrap();
        Self(dir)
    }

    fn parse(&self, text: &str) -> Result<Config, Vec<Diagnostic>> {
        Config::parse(&self.0.path().join("lockgate.yaml"), text)
    }
}

#[test]
fn a_good_file_becomes_a_configuration() {
    let dir = Dir::new();
    let config = dir.parse(GOOD).unwrap();
    assert_eq!(config.node.as_str(), "build-7");
    assert_eq!(
        config.governed,
        [
            Governed::Cgroup("/lockgate/run".into()).into(),
            Governed::Unit("actions.runner.*.service".into()).into(),
            Governed::Uid(1001).into()
        ]
    );
    let target = &config.targets[0];
    assert_eq!((target.target.mode, target.target.default), (Mode::Enforce, DefaultEffect::Deny));
    assert!(target.client_tls.is_none());
    assert_eq!(target.target.tags["pci"], "true");
    assert_eq!(config.store, Store { dir: dir.0.path().join("store"), head: None, shared: None });
    assert_eq!(config.api.socket, dir.0.path().join("store.sock"));
    assert_eq!(config.api.local_approvers[&1000][0].value.as_str(), "dba");
    assert_eq!(config.run_cgroup, "/lockgate/run");
    assert_eq!(config.warnings, []);
}

#[test]
fn an_empty_target_list_and_defaults_are_enough() {
    let config = Dir::new().parse("policies: []\n").unwrap();
    assert_eq!(config.run_cgroup, "/lockgate/run");
    assert_eq!(config.governed, [Governed::Cgroup("/lockgate/run".into()).into()]);
    assert_eq!(config.store.dir, PathBuf::from("/var/lib/lockgate"));
    assert_eq!(config.api.socket, PathBuf::from("/var/lib/lockgate.sock"));
    assert!(!config.node.as_str().is_empty());
}

#[test]
fn the_run_cgroup_is_always_governed() {
    let dir = Dir::new();
    for (text, run, governed) in [
        (
            "govern: [{ uid: 7 }]",
            "/lockgate/run",
            vec![Governed::Uid(7).into(), Governed::Cgroup("/lockgate/run".into()).into()],
        ),
        ("govern: [{ cgroup: ci/jobs/ }]", "/ci/jobs", vec![Governed::Cgroup("/ci/jobs".into()).into()]),
        (
            "govern: [{ systemd_unit: job-*.service, within: ci.slice/ }]\nguard: { pods: true }",
            "/lockgate/run",
            vec![
                Governed::UnitWithin { parent: "/ci.slice".into(), pattern: "job-*.service".into() }.into(),
                Governed::Cgroup("/lockgate/run".into()).into(),
            ],
        ),
        (
            "govern: [{ cgroup: /ci }]\nrun: { cgroup: /ci/run }",
            "/ci/run",
            vec![Governed::Cgroup("/ci".into()).into()],
        ),
        (
            "govern: [{ cgroup: /ci }]\nrun: { cgroup: /cirun }",
            "/cirun",
            vec![Governed::Cgroup("/ci".into()).into(), Governed::Cgroup("/cirun".into()).into()],
        ),
    ] {
        let config = dir.parse(text).unwrap();
        assert_eq!((config.run_cgroup.as_str(), config.governed), (run, governed), "{text}");
    }
}

#[test]
fn every_mistake_is_placed_and_told() {
    let dir = Dir::new();
    // What is replaced, by what, and a part of what must be said.
    for (old, new, expected) in [
        ("govern:", "goven:", "lockgate.yaml:2:1: unknown key `goven`; did you mean `govern`?"),
        ("addresses:", "adresses:", "lockgate.yaml:9:3: unknown key `adresses`; did you mean `addresses`?"),
        ("cgroup: /lockgate/run", "cgruop: /x", "did you mean `cgroup`?"),
        ("protocol: postgres", "protocol: postgre", "did you mean `postgres`?"),
        ("tls: disable", "tls: verify_full", "did you mean `verify-full`?"),
        (
            "{ cgroup: /lockgate/run }",
            "{ cgroup: / }",
            "lockgate.yaml:3:13: \"/\" is not the path of a cgroup",
        ),
        ("{ cgroup: /lockgate/run }", "{ cgroup: /a/../b }", "is not the path of a cgroup"),
        ("\"actions.runner.*.service\"", "\"*\"", "does not name units"),
        ("{ uid: [1001] }", "{ uid: [] }", "governs nobody"),
        ("{ uid: [1001] }", "{ uid: 1, within: /a }", "`within` goes with `systemd_unit`"),
        ("10.20.0.0/16:5432", "10.20.0.0/33:5432", "\"33\" is not a prefix length"),
        ("orders-db.internal:5432", "orders-db.internal", "has no port"),
        ("password: { file: secret }", "password: hunter2", "is written out; only a reference"),
        ("password: { file: secret }", "password: 12345", "is written out; only a reference"),
        ("password: { file: secret }", "password: { file: nowhere }", "/nowhere does not exist"),
        ("password: { file: secret }", "password: { fil: secret }", "did you mean `file`?"),
        ("password: { file: secret }", "password: { command: [] }", "the command is empty"),
        (
            "decision_secret: { file: secret }",
            "decision_secret: \"whsec_abc\"",
            "is written out; only a reference",
        ),
        ("tls: disable", "tls: verify-ca", "verify-ca needs upstream.ca"),
        ("tls: disable", "tls: disable, ca: secret", "mean nothing with tls: disable"),
        ("  upstream:", "  client_tls: accept\n  upstream:", "expected `refuse`, or a mapping"),
        (
            "  upstream:",
            "  client_tls: { certificate: secret, key: \"-----BEGIN X\" }\n  upstream:",
            "client_tls.key is written out",
        ),
        (
            "  upstream:",
            "  client_tls: { certificate: secret, ca_key: secret }\n  upstream:",
            "lockgate.yaml:11:15: client_tls: the keys do not go together",
        ),
        ("  upstream:", "  client_tls: { ca: nowhere.crt, ca_key: secret }\n  upstream:", "client_tls.ca: "),
        (
            "  upstream:",
            "  client_tls: { ca: secret, ca_key: secret, names: [\"*.internal\"] }\n  upstream:",
            "is not a DNS name",
        ),
        (
            "  upstream:",
            "  client_tls: { certificate: secret, key: secret, names: [db] }\n  upstream:",
            "client_tls.names means nothing with client_tls.certificate",
        ),
        (
            "  upstream:",
            "  client_tls: { ca: secret, ca_key: secret, validity: 1s }\n  upstream:",
            "client_tls.validity: expected 5m to 30d",
        ),
        (
            "  upstream:",
            "  client_auth: [{ user: a, verifier: \"SCRAM-SHA-256$4096:x\" }]\n  upstream:",
            "client_auth.verifier is written out; only a reference",
        ),
        (
            "  upstream:",
            "  client_auth: [{ user: a, verifier: { file: secret } }, { user: a, verifier: { file: secret } }]\n  upstream:",
            "two verifiers are for the user \"a\"",
        ),
        ("tls: disable", "tls: disable, tls_negotiation: direct", "means nothing with tls: disable"),
        (
            "password: { file: secret }",
            "client_certificate: { ca: secret, ca_key: secret }",
            "client_certificate means nothing with tls: disable",
        ),
        ("user: app, ", "", "does not say whom to log in as"),
        ("password: { file: secret }", "password: { vault: \"secret/data/x\" }", "is not PATH#FIELD"),
        (
            "password: { file: secret }",
            "password: { vault: \"secret/data/x#y\" }",
            "rests in a vault, and `vault:` does not say which",
        ),
        ("password: { file: secret }", "vault: \"database/../x\"", "is not a path of the vault"),
        ("run: {", "data_plane: { threads: 0 }\nrun: {", "expected 1 to 64 threads, got 0"),
        ("run: {", "data_plane: { threads: 65 }\nrun: {", "expected 1 to 64 threads, got 65"),
        (
            "run: {",
            "vault: { address: vault.internal, auth: { token: { file: secret } } }\nrun: {",
            "is not an http:// or https:// URL",
        ),
        (
            "run: {",
            "vault: { address: \"https://v\", auth: { token: { vault: \"a#b\" } } }\nrun: {",
            "the vault cannot keep the key to itself",
        ),
        (
            "run: {",
            "vault: { address: \"https://v\", auth: { tokn: { file: secret } } }\nrun: {",
            "did you mean `token`?",
        ),
        (
            "run: {",
            "vault: { address: \"https://v\", auth: { token: hvs.abc } }\nrun: {",
            "vault.auth.token is written out",
        ),
        ("password: { file: secret }", "password: { file: secret }, cache: 1h", "expected 1s to 5m"),
        ("  upstream:", "  mode: observe\n  upstream:", ""),
        ("env: production", "record: required", ""),
        ("policies/", "polices/", "/polices/ does not exist"),
        ("sled:store", "sql:x", "expected \"sled:PATH\" or \"postgres://…\""),
        ("sled:store", "postgres://x?y=z", "expected postgres://ROLE@HOST[:PORT]/DATABASE"),
        ("sled:store", "postgres://node:hunter2@db/lockgate", "a password does not belong into the address"),
        (
            "\"sled:store\"",
            "\"sled:store\"\nstore_password: { file: secret }",
            "store_password belongs to a store that nodes share",
        ),
        ("\"sled:store\"", "\"postgres://n@db/l\"\nstore_password: hunter2", "store_password is written out"),
        (
            "\"sled:store\"",
            "\"postgres://n@db/l\"\nstore_spool_bytes: 1",
            "expected store_spool_bytes from 16777216",
        ),
        ("\"sled:store\"", "\"postgres://n@db/l\"\nstore_ca: nowhere.pem", "nowhere.pem does not exist"),
        (
            "\"sled:store\"",
            "\"postgres://n@db/l\"\nstore_password: { file: secret }\nstore_dir: spool\nstore_spool_bytes: 33554432",
            "",
        ),
        ("http://127.0.0.1:9000/hook", "127.0.0.1:9000", "is not an http:// or https:// URL"),
        ("name: approvals", "name: \"a b\"", "is not a webhook name"),
        ("listen: \"127.0.0.1:8420\"", "listen: \"localhost\"", "expected ADDRESS:PORT"),
        ("listen: \"127.0.0.1:8420\", ", "", "nowhere to go"),
        ("{ 1000: [dba] }", "{ ana: [dba] }", "expected a user id, got `ana`"),
        ("name: build-7", "name: \"build 7\"", "is not a node name"),
        ("name: build-7", "name: x, instance: A_B", "instance name \"A_B\""),
    ] {
        let text = GOOD.replacen(old, new, 1);
        assert_ne!(text, GOOD, "{old} is not in the file");
        match (expected, dir.parse(&text)) {
            ("", result) => assert!(result.is_ok(), "{new}: {result:?}"),
            (expected, Ok(_)) => panic!("{new} was accepted; {expected} was expected"),
            (expected, Err(errors)) => {
                let said = list(&errors);
                assert!(said.contains(expected), "{new}: {expected:?} expected, got {said}");
                assert!(errors.iter().all(|error| error.line > 0), "{new}: no place: {said}");
                assert!(
                    !said.contains("hunter2") && !said.contains("whsec_abc"),
                    "the secret is in the message: {said}"
                );
            }
        }
    }
}

#[test]
fn targets_may_not_share_names_or_addresses() {
    let dir = Dir::new();
    let target = |name: &str, address: &str| {
        format!(
            "- name: {name}\n  protocol: postgres\n  addresses: [\"{address}\"]\n  upstream: {{ tls: disable, credential: {{ user: app }} }}\n"
        )
    };
    for (first, second, expected) in [
        (
            ("a", "10.0.0.1:1"),
            ("a", "10.0.0.2:1"),
            Some("two targets are named `a`; the other one is on line 2"),
        ),
        (
            ("a", "10.0.0.1:1"),
            ("b", "[::ffff:10.0.0.1]:1"),
            Some("10.0.0.1:1 belongs to the target `a` already (line 4)"),
        ),
        (("a", "10.0.3.1/16:1"), ("b", "10.0.4.1/16:1"), Some("belongs to the target `a` already")),
        (("a", "10.0.0.0/16:1"), ("b", "10.0.0.1:1"), None),
        (("a", "10.0.0.1:1"), ("b", "10.0.0.1:2"), None),
    ] {
        let text = format!("targets:\n{}{}", target(first.0, first.1), target(second.0, second.1));
        match (expected, dir.parse(&text)) {
            (None, result) => assert!(result.is_ok(), "{result:?}"),
            (Some(expected), result) => {
                let said = list(&result.unwrap_err());
                assert!(said.contains(expected), "{expected:?} expected, got {said}");
            }
        }
    }
}

#[test]
fn what_a_mode_below_enforce_does_not_do_is_said() {
    let dir = Dir::new();
    let warnings = |text: &str| list(&dir.parse(text).unwrap().warnings);
    assert!(!warnings(GOOD).contains("mode: observe"));
    let observed = warnings(&GOOD.replacen("  upstream:", "  mode: observe\n  upstream:", 1));
    assert!(observed.contains("connections to it are not redirected"), "{observed}");
    let shadowed = warnings(&GOOD.replacen("  upstream:", "  mode: shadow\n  upstream:", 1));
    assert!(shadowed.contains("nothing is refused, held or masked"), "{shadowed}");
    let all = dir.parse(&format!("mode: shadow\n{GOOD}")).unwrap();
    assert!(list(&all.warnings).contains("mode: shadow for everything"), "{:?}", all.warnings);
    assert!(all.targets.iter().all(|target| target.target.mode == Mode::Shadow));
}

#[test]
fn a_set_or_everything_can_be_only_observed() {
    let dir = Dir::new();
    let text = "govern:\n- cgroup: /a\n  mode: observe\n- cgroup: /b\n";
    let config = dir.parse(text).unwrap();
    let egress: Vec<_> = config.governed.iter().map(|set| set.egress.clone()).collect();
    assert_eq!(egress, [Egress::Observe, Egress::Allow]);
    assert_eq!(config.run_cgroup, "/b", "what `lockgate run` starts is governed");
    assert!(list(&config.warnings).contains("this set is in mode: observe"), "{:?}", config.warnings);
    let all =
        dir.parse("mode: observe\ngovern: [{ cgroup: /b, capture: all }]\nobserve: { every: 5s }\n").unwrap();
    assert!(all.governed.iter().all(|set| set.egress == Egress::Observe), "{:?}", all.governed);
    assert_eq!(all.observe_every, Duration::from_secs(5));
    for (text, expected) in [
        ("govern: [{ cgroup: /a, mode: observe, capture: all }]", "refused nothing"),
        ("govern: [{ cgroup: /a, mode: shadow }]", "observe"),
        ("observe: { every: 2h }", "observe.every"),
    ] {
        let errors = dir.parse(text).unwrap_err();
        assert!(list(&errors).contains(expected), "{text}: {errors:?}");
    }
}

#[test]
fn a_target_that_must_be_recorded_cannot_be_only_observed() {
    let text = GOOD
        .replace("env: production", "record: required")
        .replace("  upstream:", "  mode: observe\n  upstream:");
    let errors = Dir::new().parse(&text).unwrap_err();
    assert!(list(&errors).contains("forbids mode: observe"), "{errors:?}");
}

#[test]
fn groups_that_no_policy_defines_are_found() {
    let config = Dir::new().parse(GOOD).unwrap();
    assert_eq!(config.unknown_groups(&["dba".into()]), []);
    let unknown = config.unknown_groups(&["dbas".into()]);
    assert_eq!(unknown.len(), 2);
    assert_eq!(unknown[0].help.as_deref(), Some("did you mean `dbas`?"));
    assert_eq!(unknown[0].line, 15);
}

#[test]
fn a_client_reads_what_it_needs_and_no_more() {
    let dir = Dir::new();
    let path = dir.0.path().join("lockgate.yaml");
    // The secret and the policies are out of a job's reach; that is none of its business.
    std::fs::write(
        &path,
        GOOD.replace("file: secret", "file: /root/nowhere").replace("policies/", "/root/policies"),
    )
    .unwrap();
    let client = Client::read(&path).unwrap();
    assert_eq!(client.socket, dir.0.path().join("store.sock"));
    assert!(matches!(Client::read(&dir.0.path().join("none.yaml")), Err(ConfigError::Missing(_))));
    std::fs::write(&path, "api: { socket: run/agent.sock }").unwrap();
    assert_eq!(Client::read(&path).unwrap().socket, dir.0.path().join("run/agent.sock"));
}

#[test]
fn the_documented_example_is_a_configuration() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let reference = std::fs::read_to_string(reference).unwrap();
    let example = reference.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0;
    let dir = Dir::new();
    // What it refers to is on the reader's host.
    let example = example.replace("/etc/lockgate/", "").replace("/var/lib/lockgate", "store");
    for name in [
        "orders-db.crt",
        "orders-db.key",
        "db-ca.pem",
        "orders-db.password",
        "approvals.secret",
        "decisions.secret",
    ] {
        std::fs::write(dir.0.path().join(name), "x").unwrap();
    }
    let config = dir.parse(&example).unwrap();
    assert_eq!((config.targets.len(), config.webhooks.len(), config.governed.len()), (1, 1, 3));
    for key in ["node", "govern", "targets", "policies", "store", "webhooks", "api", "run"] {
        assert!(reference.contains(&format!("## `{key}`")), "`{key}` is not described");
    }
}

#[test]
fn every_way_to_log_in_and_to_be_seen_is_understood() {
    let dir = Dir::new();
    let vault = "vault: { address: \"https://vault.internal:8200\", namespace: team-a, auth: { approle: { role_id: { file: secret }, secret_id: { file: secret } } }, timeout: 2s }\nrun: {";
    let text =
        GOOD.replace("run: {", vault).replace("tls: disable", "tls: verify-full, tls_negotiation: direct");
    let with = |client: &str, credential: &str| {
        let text = text.replace("user: app, password: { file: secret }", credential);
        dir.parse(&text.replace("  upstream:", &format!("{client}  upstream:")))
            .map(|config| config.targets[0].clone())
    };
    let client = "  client_tls: { ca: secret, ca_key: { vault: \"kv/tls#key\" }, names: [Orders-DB.], validity: 1h }\n  \
                  client_auth: [{ user: careful, verifier: { env: VERIFIER } }]\n  session_in_application_name: true\n";
    let target =
        with(client, "user: app, client_certificate: { ca: secret, ca_key: { command: [cat, x] } }").unwrap();
    assert!(target.upstream_direct && target.session_in_application_name);
    assert_eq!(target.client_auth, [("careful".to_owned(), SecretRef::Env("VERIFIER".into()))]);
    let Some(ClientTls::Issue { key, names, validity, .. }) = &target.client_tls else {
        panic!("{target:?}")
    };
    assert_eq!((key, &names[..]), (&SecretRef::Vault("kv/tls#key".into()), &["orders-db".to_owned()][..]));
    assert_eq!(*validity, Duration::from_secs(3600));
    let Some(CertificateSource::Issued { validity, .. }) = target.credential.certificate else {
        panic!("none")
    };
    assert_eq!(validity, Duration::from_secs(300));
    for credential in [
        "vault: database/creds/orders, cache: 5m",
        "user: app, client_certificate: { vault: pki/sign/app, validity: 10m }",
        "user: app, password: { vault: \"secret/data/orders#password\" }",
        "user: app, password: { file: secret }, client_certificate: { certificate: secret, key: secret }",
    ] {
        with("", credential).unwrap_or_else(|errors| panic!("{credential}: {errors:?}"));
    }
}

#[test]
fn the_documented_identities_are_configurations() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity.md");
    let reference = std::fs::read_to_string(reference).unwrap();
    let examples: Vec<&str> = reference
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(example, _)| example))
        .filter(|example| example.starts_with("identity:"))
        .collect();
    assert_eq!(examples.len(), 5);
    let dir = Dir::new();
    for example in examples {
        // Outside a pod, the server has to be named, and what it refers to is on the reader's host.
        let example =
            example.replace("    bound_tokens: {}", "    server: \"https://10.0.0.1\"\n    bound_tokens: {}");
        let config =
            dir.parse(&format!("{GOOD}{example}")).unwrap_or_else(|errors| panic!("{}", list(&errors)));
        assert!(config.identity.is_some(), "{example}");
    }
    assert!(dir.parse(GOOD).unwrap().identity.is_none());
}

/// The examples in a document that begin with a word, with every path on the reader's host put in for.
fn examples(document: &str, word: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let yaml = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    placed(yaml.map(|(example, _)| example).filter(|example| example.starts_with(word))).collect()
}

/// `/etc/lockgate/…` up to the next space or comma becomes the file that every test's directory has.
fn placed<'a>(examples: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    examples.map(|example| {
        let mut out = String::new();
        let mut rest = example;
        while let Some((before, after)) = rest.split_once("/etc/lockgate/") {
            out.push_str(before);
            out.push_str("secret");
            rest = after.find([' ', ',', '\n']).map_or("", |end| &after[end..]);
        }
        out + rest
    })
}

#[test]
fn the_documented_modes_and_callers_are_configurations() {
    let dir = Dir::new();
    let observing = examples("observe-shadow-enforce.md", "govern:");
    let shadowing = examples("observe-shadow-enforce.md", "targets:");
    let calling = examples("identity.md", "targets:");
    assert_eq!((observing.len(), shadowing.len(), calling.len()), (1, 1, 1));
    let parse = |text: &String| dir.parse(text).unwrap_or_else(|errors| panic!("{text}\n{}", list(&errors)));
    assert!(parse(&observing[0]).governed.iter().any(|set| set.egress == Egress::Observe));
    assert_eq!(parse(&shadowing[0]).targets[0].target.mode, Mode::Shadow);
    let explicit = parse(&calling[0]).targets[0].explicit.clone().unwrap();
    assert_eq!(explicit.listen.to_string(), "10.0.0.5:6432");
    assert!(explicit.tokens && explicit.client_ca.is_some());
}

#[test]
fn a_target_listens_where_it_can_be_protected_and_somebody_can_say_who_calls() {
    let dir = Dir::new();
    let with = |keys: &str| {
        let text = GOOD.replacen("  upstream:", &format!("{keys}  upstream:"), 1);
        dir.parse(&text).map(|config| config.targets[0].explicit.clone())
    };
    let tls = "  client_tls: { certificate: secret, key: secret }\n";
    for (keys, expected) in [
        ("  listen: \"0.0.0.0:6432\"\n", "is no address that can be protected"),
        ("  listen: \"10.0.0.5:0\"\n", "is no address that can be protected"),
        ("  listen: here\n", "expected ADDRESS:PORT"),
        ("  listen: \"10.0.0.5:6432\"\n", "beyond loopback needs client_tls"),
        ("  listen: \"127.0.0.1:5432\"\n", "where the target itself is"),
        ("  listen: \"127.0.0.1:6432\"\n  mode: observe\n", "serves nobody"),
        ("  listen: \"127.0.0.1:6432\"\n  callers: { tokens: false }\n", "nobody could say who it is"),
        ("  listen: \"127.0.0.1:6432\"\n  callers: { client_ca: secret }\n", "needs client_tls"),
        ("  callers: { tokens: true }\n", "means nothing without `listen`"),
    ] {
        let errors = with(keys).unwrap_err();
        assert!(list(&errors).contains(expected), "{keys}: {}", list(&errors));
    }
    assert!(with("  listen: \"127.0.0.1:6432\"\n").unwrap().unwrap().tokens);
    assert!(with(&format!("  listen: \"10.0.0.5:6432\"\n{tls}")).unwrap().unwrap().client_ca.is_none());
    let networks = GOOD
        .replace(
            "\"127.0.0.1:5432\", \"10.20.0.0/16:5432\", \"orders-db.internal:5432\"",
            "\"10.20.0.0/16:5432\"",
        )
        .replacen("  upstream:", "  listen: \"127.0.0.1:6432\"\n  upstream:", 1);
    let errors = dir.parse(&networks).unwrap_err();
    assert!(list(&errors).contains("every address of this target is a network"), "{}", list(&errors));
}

#[test]
fn identities_that_a_job_could_choose_are_refused() {
    let dir = Dir::new();
    let issuer = |rest: &str| format!("issuers: [{{ provider: gitlab, audience: lockgate, {rest} }}]");
    for (identity, expected) in [
        (issuer("issuer: \"http://gitlab.example.com\", variable: T"), "expected https://HOST"),
        (issuer("issuer: \"https://u:p@gitlab.example.com\", variable: T"), "expected https://HOST"),
        (issuer("issuer: \"https://gitlab.example.com\""), "exactly one of variable and request_hosts"),
        (issuer("issuer: \"https://g.example.com\", variable: T, request_hosts: [a.b.c]"), "exactly one of"),
        (issuer("issuer: \"https://g.example.com\", request_hosts: [\"*\"]"), "lets a job choose"),
        (issuer("issuer: \"https://g.example.com\", request_hosts: [\"*.com\"]"), "lets a job choose"),
        (issuer("issuer: \"https://g.example.com\", variable: T, max_lifetime: 30d"), "max_lifetime"),
        ("kinds: [{ kind: agent }]".to_owned(), "matches nothing"),
        ("wait: 5m, kinds: [{ kind: agent, uids: [1] }]".to_owned(), "identity.wait"),
        ("tickets: [{ pattern: \"[\" }]".to_owned(), "identity.tickets"),
        ("tickets: [{ pattern: \"\" }]".to_owned(), "the pattern is empty"),
        (
            "tickets: [{ pattern: \"A-[0-9]+\", url: \"https://tickets.example.com/\" }]".to_owned(),
            "its url lacks {ticket}",
        ),
        (
            "tickets: [{ pattern: \"A-[0-9]+\", url: \"javascript:{ticket}\" }]".to_owned(),
            "identity.tickets.url",
        ),
        (
            "providers: [{ provider: gitlab, url: \"https://g.example.com\", token: secret }]".to_owned(),
            "identity.providers.token",
        ),
    ] {
        let text = format!("{GOOD}identity: {{ {identity} }}\n");
        let errors = dir.parse(&text).map(|_| ()).expect_err(&identity);
        assert!(list(&errors).contains(expected), "{identity}: {}", list(&errors));
    }
}

/// What the console's form and `targets add` can say is what a file can say.
#[test]
fn every_draft_of_a_target_is_an_entry_that_can_be_used() {
    use lockgate_control::draft::{Kept, Login, PROTOCOLS, TargetDraft};
    use lockgate_model::session::Protocol;
    let dir = Dir::new();
    let kept = || Kept::File("secret".into());
    let user = || Some(Login::User("app".into(), Some(kept())));
    let http = [Some(Login::Bearer(kept())), Some(Login::Header("x-api-key".into(), kept())), user(), None];
    let mut checked = 0;
    for protocol in PROTOCOLS {
        let logins = match protocol {
            Protocol::Postgres => vec![user(), Some(Login::User("app".into(), None))],
            Protocol::Http => http.to_vec(),
        };
        for credential in logins {
            let draft = TargetDraft {
                name: "drafted".into(),
                protocol,
                addresses: vec!["10.0.0.9:8080".into(), "shop.internal:8080".into()],
                tags: vec![("env".into(), "staging".into())],
                mode: Some(Mode::Shadow),
                default: Some(DefaultEffect::Allow),
                tls: Some("disable".into()),
                ca: None,
                credential,
                remove_headers: match protocol {
                    Protocol::Postgres => Vec::new(),
                    Protocol::Http => vec!["cookie".into()],
                },
                client_ca: None,
            };
            let entry = draft.entry().to_string();
            let begin = GOOD.find("- name: orders-db").unwrap();
            let end = GOOD.find("policies: [").unwrap();
            let text = format!("{}- {entry}\n{}", &GOOD[..begin], &GOOD[end..]);
            let config = dir.parse(&text).unwrap_or_else(|found| panic!("{entry}: {found:?}"));
            let target = &config.targets[0].target;
            assert_eq!(
                (target.name.as_str(), target.protocol, target.mode),
                ("drafted", protocol, Mode::Shadow)
            );
            checked += 1;
        }
    }
    assert_eq!(checked, 6);
}
