//! `lockgate completions` and `lockgate man`: made from the same definitions that read the command line.

use super::{Cli, Exit, TEMPLATE, output};
use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use std::{fs, path::PathBuf};

/// Print what a shell needs to complete lockgate's words
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate completions bash > /etc/bash_completion.d/lockgate
  source <(lockgate completions zsh)
",
)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Write man pages, one for each verb
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate man /usr/local/share/man/man1
  lockgate man man1 && man man1/lockgate-approvals-watch.1
",
)]
pub(super) struct Man {
    /// Where they go; made when it is not there
    directory: PathBuf,
}

pub(super) fn completions(arguments: &Completions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "lockgate", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

pub(super) fn man(arguments: &Man) -> anyhow::Result<Exit> {
    let Man { directory } = arguments;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(|| directory.display().to_string())?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_every_shell_a_script() {
        let dir = tempfile::tempdir().unwrap();
        man(&Man { directory: dir.path().join("man1") }).unwrap();
        let pages: Vec<String> = fs::read_dir(dir.path().join("man1"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for page in
            ["lockgate.1", "lockgate-approvals.1", "lockgate-approvals-watch.1", "lockgate-targets-add.1"]
        {
            assert!(pages.iter().any(|it| it == page), "{page}: {pages:?}");
        }
        let page = fs::read_to_string(dir.path().join("man1/lockgate-approvals-watch.1")).unwrap();
        assert!(page.contains("approvals watch"), "{page}");
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lockgate", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("rehearse") && script.contains("breakglass"), "{shell}");
        }
    }
}
