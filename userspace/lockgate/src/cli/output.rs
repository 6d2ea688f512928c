//! What goes to the terminal: tables without borders, JSON, errors with their help, diagnostics with a caret.

use super::{Exit, exit::Failure, text};
use crate::config::ConfigError;
use lockgate_policy::Diagnostic;
use serde::Serialize;
use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

/// A style of a word; only ever an addition to the word itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    Bold,
    Red,
    Green,
    Yellow,
    Dim,
}

/// Dresses a word when standard output is a terminal and NO_COLOR is unset (<https://no-color.org>).
pub(crate) fn styled(style: Style, word: &str) -> String {
    dress(style, word, io::stdout().is_terminal())
}

fn dress(style: Style, word: &str, terminal: bool) -> String {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if !terminal || no_color || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return word.to_owned();
    }
    let code = match style {
        Style::Bold => 1,
        Style::Red => 31,
        Style::Green => 32,
        Style::Yellow => 33,
        Style::Dim => 2,
    };
    format!("\u{1b}[{code}m{word}\u{1b}[0m")
}

/// Prints; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Prints one JSON document.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Rows in aligned columns. Cells are escaped here; nothing of a job reaches the terminal raw.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| text::line(cell)).collect());
    }

    pub(crate) fn render(&self) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|cell| cell.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> =
                cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            format!("{}\n", padded.join("  ").trim_end())
        };
        out.push_str(&styled(Style::Dim, line(&mut self.head.iter().copied()).trim_end()));
        out.push('\n');
        for row in &self.rows {
            out.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        out
    }
}

/// Says what went wrong on standard error, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let word = dress(Style::Red, "error", io::stderr().is_terminal());
    match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Invalid { text, diagnostics }) => {
            eprint!(
                "{}",
                render_diagnostics(
                    diagnostics,
                    |file| text.clone().or_else(|| std::fs::read_to_string(file).ok()),
                    &word
                )
            );
        }
        Some(ConfigError::Missing(_) | ConfigError::Unreadable { .. }) | None => {
            eprintln!("{word}: {error:#}")
        }
    }
    error.downcast_ref::<Failure>().map_or(Exit::Failed, |failure| failure.exit).into()
}

/// Diagnostics as rustc writes them: message, place, the line with a caret, what to do.
pub(crate) fn render_diagnostics(
    diagnostics: &[Diagnostic],
    text_of: impl Fn(&str) -> Option<String>,
    word: &str,
) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let Diagnostic { file, line, column, message, help } = diagnostic;
        out.push_str(&format!("{word}: {}\n", text::line(message)));
        let source = text_of(file).and_then(|text| {
            let index = usize::try_from(*line).ok()?.checked_sub(1)?;
            text.lines().nth(index).map(str::to_owned)
        });
        let gutter = " ".repeat(line.to_string().len());
        match line {
            0 => out.push_str(&format!("{gutter}--> {file}\n")),
            line => out.push_str(&format!("{gutter}--> {file}:{line}:{column}\n")),
        }
        if let Some(source) = source {
            let (before, under) = caret(&source, *column);
            out.push_str(&format!(
                "{gutter} |\n{line} | {}\n{gutter} | {}{}\n",
                text::line(&source.replace('\t', " ")),
                " ".repeat(before),
                "^".repeat(under)
            ));
        }
        if let Some(help) = help {
            out.push_str(&format!("{gutter} = help: {}\n", text::line(help)));
        }
        out.push('\n');
    }
    out
}

/// Where the caret begins and how long it is: to the end of the word.
fn caret(source: &str, column: u64) -> (usize, usize) {
    let before = usize::try_from(column.saturating_sub(1)).unwrap_or(0);
    let word =
        source.chars().skip(before).take_while(|c| !c.is_whitespace() && !matches!(c, ':' | ',' | ']' | '}'));
    (before, word.count().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_without_borders() {
        let mut table = Table::new(&["ID", "TARGET"]);
        table.row(vec!["req_1".into(), "orders-db".into()]);
        table.row(vec!["r".into(), "a\u{1b}b".into()]);
        assert_eq!(table.render(), "ID     TARGET\nreq_1  orders-db\nr      a⟨U+001B⟩b\n");
    }

    #[test]
    fn diagnostics_point_at_the_word() {
        let diagnostic = Diagnostic {
            file: "lockgate.yaml".into(),
            line: 2,
            column: 3,
            message: "unknown key `adresses`".into(),
            help: Some("did you mean `addresses`?".into()),
        };
        let text = "targets:\n  adresses: []\n";
        assert_eq!(
            render_diagnostics(&[diagnostic], |_| Some(text.into()), "error"),
            "error: unknown key `adresses`\n --> lockgate.yaml:2:3\n  |\n2 |   adresses: []\n  |   ^^^^^^^^\n  = help: did you mean `addresses`?\n\n"
        );
    }
}
