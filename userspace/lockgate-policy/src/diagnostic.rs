//! What is wrong with a file, where, and what was probably meant.

use std::fmt;

/// One error or warning in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Diagnostic {
    /// The file, as it was named by whoever read it.
    pub file: String,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: u64,
    /// Column in characters, from 1; 0 when the file as a whole is meant.
    pub column: u64,
    /// What is wrong: expected and got.
    pub message: String,
    /// What to do: the nearest right word, or the list of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message)?,
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message)?,
        }
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// "did you mean `x`?" when a candidate is near, else the candidates when they are few.
pub fn suggest<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    /// More than this is no help to read.
    const SHOWN: usize = 24;
    let mut candidates: Vec<&str> = candidates.into_iter().collect();
    let nearest = candidates
        .iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&got.to_lowercase(), &candidate.to_lowercase()), *candidate)
        })
        .min();
    match nearest {
        // A third of the word may be wrong, and one letter always.
        Some((distance, candidate)) if distance <= (got.chars().count() / 3).max(1) => {
            Some(format!("did you mean `{candidate}`?"))
        }
        _ if candidates.is_empty() || candidates.len() > SHOWN => None,
        _ => {
            candidates.sort_unstable();
            Some(format!("expected one of: {}", candidates.join(", ")))
        }
    }
}
