//! Secrets from this host: a file, a variable of the agent, or the output of a command.
//!
//! What each costs is bounded in bytes and time. It does not know vaults, and it keeps nothing.

use super::{COMMAND_TIME, CredentialError, MAX_SECRET, SecretBytes};
use lockgate_model::{Secret, SecretRef};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{io, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};
use zeroize::{Zeroize, Zeroizing};

/// Variables of the agent that a command sees. Others may hold secrets of somebody else; what a command needs besides can
/// stand before it (`[env, NAME=value, PROGRAM]`).
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR"];

/// Reads the secret that `reference` names. One trailing newline is cut.
pub(super) async fn resolve(reference: &SecretRef) -> Result<SecretBytes, CredentialError> {
    let raw = match reference {
        SecretRef::File(path) => from_file(path).await?,
        SecretRef::Env(name) => from_variable(name)?,
        SecretRef::Command(argv) => from_command(argv, COMMAND_TIME).await?,
        SecretRef::Vault(_) => return Err(CredentialError::NoVault),
    };
    finish(raw, || describe(reference))
}

/// Where it rests, for errors: a command is named by its program alone, as arguments may be secrets too.
pub(super) fn describe(reference: &SecretRef) -> String {
    match reference {
        SecretRef::File(path) => format!("file {path}"),
        SecretRef::Env(name) => format!("environment variable {name}"),
        SecretRef::Command(argv) => format!("the output of {}", program(argv)),
        SecretRef::Vault(path) => format!("vault {path}"),
    }
}

fn program(argv: &[String]) -> &str {
    argv.first().map_or("", String::as_str)
}

async fn from_file(path: &str) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let failed = |error: io::Error| CredentialError::File { path: path.to_owned(), kind: error.kind() };
    let owned = path.to_owned();
    // Not by tokio's File: that reads through a buffer of its own, which nobody wipes.
    let read = tokio::task::spawn_blocking(move || {
        use io::Read as _;
        let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
        std::fs::File::open(owned)?.take(MAX_SECRET as u64 + 1).read_to_end(&mut buffer)?;
        Ok(buffer)
    });
    read.await.unwrap_or_else(|error| Err(error.into())).map_err(failed)
}

fn from_variable(name: &str) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    use std::os::unix::ffi::OsStringExt;
    match std::env::var_os(name) {
        Some(value) => Ok(Zeroizing::new(value.into_vec())),
        None => Err(CredentialError::Variable { name: name.to_owned() }),
    }
}

async fn from_command(argv: &[String], limit: Duration) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let Some((program, arguments)) = argv.split_first() else { return Err(CredentialError::NoProgram) };
    let failed = |error: io::Error| CredentialError::Command { program: program.clone(), kind: error.kind() };
    // Its standard error goes nowhere: what it says may hold the secret.
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let group = Group::of(&child);
    let run = async {
        let output = match child.stdout.take() {
            Some(stdout) => read_bounded(stdout).await?,
            None => Zeroizing::new(Vec::new()),
        };
        // Its pipe is closed by now: a command that has more to say gets SIGPIPE instead of hanging.
        Ok((output, child.wait().await?))
    };
    let ended = timeout(limit, run).await;
    match &ended {
        // Its children may keep its pipe; nobody reads it any more.
        Ok(Ok((output, _))) if output.len() <= MAX_SECRET => group.ended(),
        Ok(_) | Err(_) => drop(group),
    }
    match ended {
        Err(_) => Err(CredentialError::CommandSlow { program: program.clone(), limit }),
        Ok(Err(error)) => Err(failed(error)),
        // Cut off by the bound: that, not the broken pipe, is what is wrong.
        Ok(Ok((output, _))) if output.len() > MAX_SECRET => Ok(output),
        Ok(Ok((output, status))) if status.success() => Ok(output),
        Ok(Ok((_, status))) => {
            Err(CredentialError::CommandFailed { program: program.clone(), status: status.to_string() })
        }
    }
}

/// The processes of a command; killed when it is dropped before its end, also when the login is given up.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already: nothing to do.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// At most one byte more than a secret may have, in a buffer that never moves: growing would leave copies behind.
async fn read_bounded(source: impl AsyncRead + Unpin) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
    let mut source = source.take(MAX_SECRET as u64 + 1);
    while buffer.len() <= MAX_SECRET && source.read_buf(&mut *buffer).await? > 0 {}
    Ok(buffer)
}

pub(super) fn finish(
    mut raw: Zeroizing<Vec<u8>>,
    whence: impl Fn() -> String,
) -> Result<SecretBytes, CredentialError> {
    if raw.len() > MAX_SECRET {
        return Err(CredentialError::TooLong { whence: whence(), limit: MAX_SECRET });
    }
    if raw.last() == Some(&b'\n') {
        raw.pop();
        if raw.last() == Some(&b'\r') {
            raw.pop();
        }
    }
    if raw.is_empty() {
        return Err(CredentialError::Empty { whence: whence() });
    }
    let mut exact = Vec::with_capacity(raw.len());
    exact.extend_from_slice(&raw);
    raw.zeroize();
    Ok(Secret::new(exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> SecretRef {
        SecretRef::Command(words.iter().map(ToString::to_string).collect())
    }

    #[tokio::test]
    async fn secrets_come_from_files_variables_and_commands() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            SecretRef::File(path.display().to_string())
        };
        for (reference, expected) in [
            (file("plain", b"pass word"), Ok(&b"pass word"[..])),
            (file("newline", b"one\ntwo\n"), Ok(b"one\ntwo")),
            (file("two newlines", b"x\n\n"), Ok(b"x\n")),
            (file("windows", b"x\r\n"), Ok(b"x")),
            (file("bytes", b"\xff\x00\n"), Ok(b"\xff\x00")),
            (file("only a newline", b"\n"), Err("secret_empty")),
            (file("long", &vec![b'x'; MAX_SECRET + 1]), Err("secret_too_long")),
            (SecretRef::File("/nonexistent/secret".into()), Err("secret_file")),
            (SecretRef::Env("LOCKGATE_NO_SUCH_VARIABLE".into()), Err("secret_variable")),
            (command(&["printf", "%s\\n", "from a command"]), Ok(b"from a command")),
            (command(&["sh", "-c", "echo half; exit 3"]), Err("secret_command")),
            (command(&["/nonexistent/program"]), Err("secret_command")),
            (command(&["true"]), Err("secret_empty")),
            (command(&["cat", "/dev/zero"]), Err("secret_too_long")),
            (command(&[]), Err("secret_command")),
            (SecretRef::Vault("secret/data/x#y".into()), Err("secret_no_vault")),
        ] {
            let got = resolve(&reference).await;
            let got = got.as_ref().map(|s| s.expose().as_slice()).map_err(CredentialError::kind);
            assert_eq!(got, expected, "{reference:?}");
        }
        assert!(resolve(&SecretRef::Env("PATH".into())).await.is_ok());
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed() {
        let argv = ["sleep", "60"].map(str::to_owned);
        let error = from_command(&argv, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.kind(), "secret_command_slow");
    }

    #[tokio::test]
    async fn a_command_s_children_end_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; echo password", file.display());
        let error = from_command(&["sh", "-c", &script].map(str::to_owned), Duration::from_millis(500)).await;
        assert_eq!(error.unwrap_err().kind(), "secret_command_slow");
        let pid = std::fs::read_to_string(file).unwrap();
        // Killed, and then reaped by whoever is its parent now.
        for _ in 0..500 {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("sleep {pid} lives on");
    }

    #[tokio::test]
    async fn a_command_sees_little_of_the_agent_s_environment() {
        let seen = resolve(&command(&["env"])).await.unwrap();
        let seen = String::from_utf8(seen.expose().clone()).unwrap();
        let names: Vec<_> =
            seen.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(names.contains(&"PATH"), "{names:?}");
        assert!(names.iter().all(|name| PASSED_ON.contains(name)), "{names:?}");
    }

    #[test]
    fn errors_do_not_name_a_command_s_arguments() {
        assert_eq!(describe(&command(&["vault", "token=abc"])), "the output of vault");
    }
}
