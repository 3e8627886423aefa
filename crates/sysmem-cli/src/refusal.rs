//! Why something was refused, and the status that says so.

use std::io;
use std::path::Path;

/// The command itself failed, as with env(1) and timeout(1).
pub const OWN_FAILURE: i32 = 125;
/// A process could not be looked at.
pub const UNSEEN: i32 = 1;
/// The program is there and cannot be run.
pub const CANNOT_RUN: i32 = 126;
/// There is no such program.
pub const NOT_FOUND: i32 = 127;

/// Why a program was not run or a process not shown, in one line that a person can act on.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The exit status of the command.
    pub status: i32,
    /// The line, without the command's name before it.
    pub reason: String,
}

impl Refusal {
    pub fn own(reason: String) -> Self {
        Self { status: OWN_FAILURE, reason }
    }

    pub fn unseen(reason: String) -> Self {
        Self { status: UNSEEN, reason }
    }

    pub fn cannot_run(reason: String) -> Self {
        Self { status: CANNOT_RUN, reason }
    }

    pub fn not_found(reason: String) -> Self {
        Self { status: NOT_FOUND, reason }
    }
}

/// What the system says went wrong, without its number for it.
pub fn why(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}

/// Why something that was asked for cannot be written to a file.
pub fn cannot_write(what: &str, path: &Path, error: &io::Error) -> String {
    let folder =
        path.parent().filter(|folder| error.kind() == io::ErrorKind::NotFound && !folder.exists());
    let why = match folder {
        Some(folder) => format!("there is no folder {}", folder.display()),
        None => why(error),
    };
    format!("cannot write {what} to {}: {why}", path.display())
}
