//! `bench/RESULTS.md`: one section a verb, replaced as a whole by whoever measured it anew; the others stay.

use anyhow::{Context, Result};
use std::path::Path;

/// Where results go, from the workspace's root.
pub const FILE: &str = "bench/RESULTS.md";

const HEAD: &str = "# Results\n\nWhat lockgate costs, with policy, a masking rule and recording on. The machine is small and shared: read \
the ratios, not the rates. Each section says which command made it.\n";

/// The sections, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `--peers`
    Peers,
    /// `--large`
    Large,
    /// `--instructions`
    Instructions,
    /// `--connect`
    Connect,
    /// `--search`
    Search,
    /// `--approvals`
    Approvals,
}

impl Section {
    const ALL: [Self; 6] =
        [Self::Peers, Self::Large, Self::Instructions, Self::Connect, Self::Search, Self::Approvals];

    fn title(self) -> &'static str {
        match self {
            Self::Peers => "## Side by side",
            Self::Large => "## A large result",
            Self::Instructions => "## Instructions per query",
            Self::Connect => "## connect() with the hooks",
            Self::Search => "## Search over a million events",
            Self::Approvals => "## Two thousand requests that wait",
        }
    }
}

/// Replaces one section of the file, relative to the current directory.
pub fn store(section: Section, body: &str) -> Result<()> {
    let old = std::fs::read_to_string(FILE).unwrap_or_default();
    std::fs::write(FILE, replaced(&old, section, body)).with_context(|| format!("write {FILE}"))
}

fn replaced(old: &str, section: Section, body: &str) -> String {
    let mut text = HEAD.to_owned();
    for each in Section::ALL {
        let kept = if each == section { Some(body) } else { part(old, each) };
        if let Some(kept) = kept {
            text.push_str(&format!("\n{}\n\n{}\n", each.title(), kept.trim()));
        }
    }
    text
}

fn part(text: &str, section: Section) -> Option<&str> {
    let (_, rest) = text.split_once(&format!("\n{}\n", section.title()))?;
    Some(rest.split("\n## ").next().unwrap_or(rest))
}

/// Cores, processor and kernel.
pub fn machine() -> String {
    let first = |path: &str, key: &str| {
        std::fs::read_to_string(Path::new(path))
            .ok()
            .and_then(|text| {
                Some(text.lines().find(|line| line.starts_with(key))?.split_once(':')?.1.trim().to_owned())
            })
            .unwrap_or_default()
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let release = kernel.split('-').next().unwrap_or_default().trim();
    format!("{cores} cores, {}, Linux {release}", first("/proc/cpuinfo", "model name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_others_stay() {
        let first = replaced("", Section::Instructions, "many");
        let both = replaced(&first, Section::Peers, "| a |\n\n### More\n\nrest");
        assert!(both.find("## Side by side").unwrap() < both.find("## Instructions").unwrap());
        let again = replaced(&both, Section::Instructions, "few");
        assert!(again.contains("rest\n") && again.contains("few") && !again.contains("many"), "{again}");
        assert_eq!(replaced(&again, Section::Instructions, "few"), again);
    }
}
