//! What can be wrong with a configuration, said so that a person can mend it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// How many problems are kept; past that, the rest is only counted.
pub const MAX_PROBLEMS: usize = 50;

/// How many characters of a value or key are repeated in a message.
const SHOWN_CHARS: usize = 60;

/// How alike (Jaro-Winkler, 0 to 1) a misspelt name must be to be worth suggesting.
const SIMILAR: f64 = 0.84;

/// One key that cannot be used as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The included file the key is in; `None` for the main configuration.
    pub file: Option<String>,
    /// The dotted path of the key, list items by index from 0: `devices[3].macs[0]`. Empty for the whole document.
    pub key: String,
    /// The value as written, shortened; `None` where the key itself is the problem.
    pub value: Option<String>,
    /// What is wrong, to be read after the value: `is below 300, ...`.
    pub wrong: String,
    /// What to do: the allowed values, or the nearest key.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", shorten(file))?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value} ")?;
        }
        write!(f, "{}; {}", self.wrong, self.expected)
    }
}

/// Every problem of one configuration: misplaced and unknown keys, then included files, then values. Never empty when
/// it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    further: usize,
}

impl Problems {
    /// Add a problem; past [`MAX_PROBLEMS`] it is only counted.
    pub(super) fn push(&mut self, problem: Problem) {
        if self.is_full() {
            self.count();
        } else {
            self.kept.push(problem);
        }
    }

    /// True when further problems are only counted, so that their words need not be found.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= MAX_PROBLEMS
    }

    /// Count a problem without keeping it.
    pub(super) fn count(&mut self) {
        self.further = self.further.saturating_add(1);
    }

    /// True when nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The problems kept.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.kept
    }

    /// How many more there are than were kept.
    #[must_use]
    pub fn further(&self) -> usize {
        self.further
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.kept.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.further > 0 {
            write!(f, "\nand {} further problems", self.further)?;
        }
        Ok(())
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than [`super::MAX_FILE_BYTES`].
    #[error("{}: larger than {limit} bytes, the most a configuration file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file is not UTF-8 text.
    #[error("{}:{line}:{column}: not UTF-8 text; save the file as UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line of the first wrong byte, from 1.
        line: u64,
        /// Column of the first wrong byte, from 1, in characters.
        column: u64,
    },
    /// The file is neither YAML nor JSON, or holds a key twice.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 when it cannot be told.
        line: u64,
        /// Column, from 1; 0 when it cannot be told.
        column: u64,
        /// What the parser expected.
        message: String,
    },
    /// The text is readable, but keys or values are wrong.
    #[error("{}{problems}", heading(file.as_deref()))]
    Invalid {
        /// The main configuration, when it is a file.
        file: Option<PathBuf>,
        /// All that is wrong.
        problems: Problems,
    },
}

fn heading(file: Option<&Path>) -> String {
    file.map_or_else(String::new, |file| {
        format!("{} is not a valid configuration:\n", file.display())
    })
}

/// Where a value stands: which file, which dotted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    file: Option<String>,
    key: String,
}

impl Place {
    /// The whole document of the main configuration (`None`) or of an included file.
    pub(super) fn document(file: Option<&str>) -> Self {
        Self {
            file: file.map(str::to_owned),
            key: String::new(),
        }
    }

    /// The dotted key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The key `name` below this one; `name` may itself be dotted.
    pub(super) fn child(&self, name: &str) -> Self {
        let name = shorten(name);
        Self {
            file: self.file.clone(),
            key: if self.key.is_empty() {
                name
            } else {
                format!("{}.{name}", self.key)
            },
        }
    }

    /// The list item `index` of this key.
    pub(super) fn item(&self, index: usize) -> Self {
        Self {
            file: self.file.clone(),
            key: format!("{}[{index}]", self.key),
        }
    }

    /// This place in a message about `other`, which may be in another file.
    pub(super) fn seen_from(&self, other: &Self) -> String {
        match &self.file {
            _ if self.file == other.file => self.key.clone(),
            Some(file) => format!("{} in {}", self.key, shorten(file)),
            None => format!("{} in the main configuration", self.key),
        }
    }

    /// A problem with the value found here.
    pub(super) fn problem(&self, value: &Value, wrong: impl Into<String>, expected: impl Into<String>) -> Problem {
        Problem {
            value: Some(show(value)),
            ..self.key_problem(wrong, expected)
        }
    }

    /// A problem with the key itself.
    pub(super) fn key_problem(&self, wrong: impl Into<String>, expected: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            key: self.key.clone(),
            value: None,
            wrong: wrong.into(),
            expected: expected.into(),
        }
    }
}

/// A value as it was written, cut to a readable length.
pub(super) fn show(value: &Value) -> String {
    match value {
        // Never print a whole file back: a section where a scalar belongs may be megabytes.
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) => Value::String(cut(text)).to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Text for use outside quotes: control characters escaped, cut to a readable length.
fn shorten(text: &str) -> String {
    if text.chars().any(char::is_control) {
        cut(text).escape_debug().to_string()
    } else {
        cut(text)
    }
}

fn cut(text: &str) -> String {
    let mut kept: String = text.chars().take(SHOWN_CHARS).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}

/// The candidate most like `written`, if any is like it at all.
pub(super) fn similar<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Only short text can be a misspelt key, and the comparison is quadratic.
    if written.len() > SHOWN_CHARS {
        return None;
    }
    let written = written.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&written, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
