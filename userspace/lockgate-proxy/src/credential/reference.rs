//! From a reference to the secret itself: a file, a variable of the agent, or the output of a command.
//!
//! Read anew for every session and kept nowhere, so that a rotated secret is in force at once and a stolen core of an
//! idle agent holds none. It does not decide who may use a secret; the upstream connector asks, once per login.

use lockgate_model::{Secret, SecretRef};
use std::{io, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};
use zeroize::{Zeroize, Zeroizing};

/// A secret longer than this is a mistaken path. Tokens and keys are a few KiB at most.
pub const MAX_SECRET: usize = 64 * 1024;
/// A command that asks a vault answers in a second or two; a session waits for it, so it may not hang.
pub const COMMAND_TIME: Duration = Duration::from_secs(10);

/// Bytes of a secret. Passwords need not be UTF-8.
pub type SecretBytes = Secret<Vec<u8>>;

/// Why a secret cannot be had. Never carries any part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {kind}")]
    File {
        /// Its path.
        path: String,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// The variable is not set.
    #[error("the environment variable {name} is not set for the agent")]
    Variable {
        /// Its name.
        name: String,
    },
    /// The reference names no program.
    #[error("the secret's command is empty, expected a program and its arguments")]
    NoProgram,
    /// The command cannot be run.
    #[error("cannot run the secret's command {program}: {kind}")]
    Command {
        /// The program.
        program: String,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// The command failed.
    #[error("the secret's command {program} ended with {status}, expected success")]
    CommandFailed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
    },
    /// The command took too long and was killed.
    #[error("the secret's command {program} did not end within {limit:?}")]
    CommandSlow {
        /// The program.
        program: String,
        /// The bound.
        limit: Duration,
    },
    /// The secret is longer than any secret is.
    #[error("the secret in {whence} is longer than {limit} bytes")]
    TooLong {
        /// Where it rests.
        whence: String,
        /// The bound.
        limit: usize,
    },
    /// There is nothing.
    #[error("the secret in {whence} is empty")]
    Empty {
        /// Where it rests.
        whence: String,
    },
}

impl CredentialError {
    /// A stable label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "secret_file",
            Self::Variable { .. } => "secret_variable",
            Self::NoProgram | Self::Command { .. } | Self::CommandFailed { .. } => "secret_command",
            Self::CommandSlow { .. } => "secret_command_slow",
            Self::TooLong { .. } => "secret_too_long",
            Self::Empty { .. } => "secret_empty",
        }
    }
}

/// Reads the secret that `reference` names. One trailing newline is cut.
pub async fn resolve(reference: &SecretRef) -> Result<SecretBytes, CredentialError> {
    let raw = match reference {
        SecretRef::File(path) => from_file(path).await?,
        SecretRef::Env(name) => from_variable(name)?,
        SecretRef::Command(argv) => from_command(argv, COMMAND_TIME).await?,
    };
    finish(raw, || describe(reference))
}

/// Where it rests, for errors: a command is named by its program alone, as arguments may be secrets too.
fn describe(reference: &SecretRef) -> String {
    match reference {
        SecretRef::File(path) => format!("file {path}"),
        SecretRef::Env(name) => format!("environment variable {name}"),
        SecretRef::Command(argv) => format!("the output of {}", program(argv)),
    }
}

fn program(argv: &[String]) -> &str {
    argv.first().map_or("", String::as_str)
}

async fn from_file(path: &str) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let failed = |error: io::Error| CredentialError::File { path: path.to_owned(), kind: error.kind() };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    read_bounded(file).await.map_err(failed)
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
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let run = async {
        let output = match child.stdout.take() {
            Some(stdout) => read_bounded(stdout).await?,
            None => Zeroizing::new(Vec::new()),
        };
        // Its pipe is closed by now: a command that has more to say gets SIGPIPE instead of hanging.
        Ok((output, child.wait().await?))
    };
    match timeout(limit, run).await {
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

/// At most one byte more than a secret may have, in a buffer that never moves: growing would leave copies behind.
async fn read_bounded(source: impl AsyncRead + Unpin) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
    let mut source = source.take(MAX_SECRET as u64 + 1);
    while buffer.len() <= MAX_SECRET && source.read_buf(&mut *buffer).await? > 0 {}
    Ok(buffer)
}

fn finish(mut raw: Zeroizing<Vec<u8>>, whence: impl Fn() -> String) -> Result<SecretBytes, CredentialError> {
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

    #[test]
    fn errors_do_not_name_a_command_s_arguments() {
        assert_eq!(describe(&command(&["vault", "token=abc"])), "the output of vault");
    }
}
