//! The target's leg against real PostgreSQL: logins of every kind, verification, refusals, servers that misbehave, and the
//! catalogue's side connection.

mod builtins;
mod catalogue;
mod certificates;
mod effects;
mod everyday;
mod login;
mod misbehaviour;
mod texts;
mod vault;

use lockgate_tests::postgres::{HostAuth, PostgresOptions, TestPostgres};

#[test]
fn a_test_server_starts_crashes_restarts_and_leaves_nothing() {
    let options = PostgresOptions::new().tls().auth(HostAuth::Md5);
    let mut server = TestPostgres::start(options).expect("start");
    let dir = server.socket_dir().to_owned();
    let method = server.psql("SELECT left(rolpassword, 3) FROM pg_authid WHERE rolname = 'postgres'");
    assert_eq!(method.expect("query"), "md5");
    assert!(server.ca_pem().expect("tls").contains("BEGIN CERTIFICATE"));
    server.kill().expect("kill");
    server.psql("SELECT 1").expect_err("it is down");
    server.restart().expect("restart");
    assert_eq!(server.psql("SELECT 1").expect("query"), "1");
    drop(server);
    assert!(!dir.exists());
}
