//! The command line: arguments in, documents and exit codes out.

pub mod alarms;
pub mod args;
pub mod boot;
pub mod check_config;
pub mod detect;
pub mod devices;
pub mod doctor;
pub mod logging;
pub mod measure;
pub mod privileges;
pub mod purge;
pub mod quarantine;
pub mod report;
pub mod run;
pub mod shadow;
pub mod status;

use std::fmt;
use std::process::ExitCode;

/// How a command ended, as the shell sees it. 1 is the SDK's: it ends the process when the nucleus is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Done,
    /// 3
    InvalidConfiguration,
    /// 4
    Failed,
    /// 5
    Unfit,
    /// 6
    NotInForce,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::InvalidConfiguration => 3,
            Exit::Failed => 4,
            Exit::Unfit => 5,
            Exit::NotInForce => 6,
        })
    }
}

/// A configuration that is not valid, with everything that is wrong with it.
#[derive(Debug)]
pub struct InvalidConfiguration(pub String);

impl fmt::Display for InvalidConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidConfiguration {}

/// Text that is safe on a terminal: control characters, which outside data may carry, become `?`.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A table without lines, which is easy to read and to cut apart.
#[must_use]
pub fn plain_table() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}

/// A number with thin groups, for people: `1 234 567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_digits_by_three() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1 000", "1 234 567"]
        );
    }

    #[test]
    fn a_terminal_never_sees_control_characters() {
        assert_eq!(printable("a\u{1b}[2J\nb\u{9b}c"), "a?[2J?b?c");
    }
}
