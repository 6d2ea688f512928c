//! A mail server: aiosmtpd from PyPI, which insists on STARTTLS (or speaks TLS at once) and on a login, and writes each
//! letter to a file.

use crate::{certificate::TestCa, installed, scratch::Scratch};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Who may send.
pub const USER: &str = "lockgate";
/// By this password.
pub const PASSWORD: &str = "mail-secret-of-tests";

/// A running server. Ends with its guard.
#[derive(Debug)]
pub struct MailServer {
    child: Child,
    port: u16,
    dir: Scratch,
}

impl MailServer {
    /// Starts one for `localhost`; `flags` are those of `smtp_sink.py`.
    pub fn start(flags: &[&str]) -> Result<Self> {
        let dir = Scratch::new("mail")?;
        let ca = TestCa::new("mail tests")?;
        let issued = ca.issue(&["localhost", "127.0.0.1"])?;
        dir.write("ca.pem", &ca.pem())?;
        let certificate = dir.write("server.pem", &issued.certificate)?;
        let key = dir.write_secret("server.key", &issued.key)?;
        dir.write_secret("password", PASSWORD)?;
        std::fs::create_dir(dir.path().join("letters"))?;
        let mut child = Command::new(installed::installed("python/bin/python")?)
            .arg(installed::client_source("python/smtp_sink.py")?)
            .arg(dir.path().join("letters"))
            .args([&certificate, &key])
            .args([USER, PASSWORD])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("aiosmtpd")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("stdout")?;
        let read = BufReader::new(stdout).read_line(&mut line);
        let port = read.ok().and_then(|_| line.trim().parse().ok());
        let mut server = Self { child, port: 0, dir };
        server.port = port.context("the mail server named no port")?;
        Ok(server)
    }

    /// A `channels:` entry that sends here, trusting its CA.
    pub fn channel(&self, more: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "- name: mail\n  kind: email\n  host: localhost\n  port: {}\n  ca: {dir}/ca.pem\n  username: {USER}\n  \
             password: {{ file: {dir}/password }}\n  from: \"lockgate <lockgate@example.com>\"\n  to: [approvals@example.com]\n{more}",
            self.port
        )
    }

    /// Every letter, oldest first.
    pub fn letters(&self) -> Result<Vec<String>> {
        let mut files: Vec<_> = std::fs::read_dir(self.dir.path().join("letters"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
            .collect();
        files.sort();
        files.iter().map(|path: &std::path::PathBuf| read(path)).collect()
    }

    /// Waits for so many letters.
    pub async fn wait_for(&self, count: usize) -> Result<Vec<String>> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let letters = self.letters()?;
            if letters.len() >= count {
                return Ok(letters);
            }
            if Instant::now() > until {
                bail!("{count} letters expected, got {letters:#?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn read(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
