//! Facts, one line a check, and the closing line, as text or as JSON lines.

use core::fmt::{self, Write};

use sysmem::{Error, ErrorKind};

/// How the checks ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Checks whose promise was kept.
    pub passed: usize,
    /// Checks whose promise was broken.
    pub failed: usize,
    /// Checks of what the system does not have, or the platform cannot see.
    pub not_supported: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { passed, failed, not_supported } = self;
        write!(f, "{passed} passed, {failed} failed, {not_supported} not supported")
    }
}

/// Why a check ended before its end. What was seen is in the suite's note.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A promise was broken.
    Failed,
    /// The platform cannot look.
    NotSupported,
    /// The system refused an operation.
    Refused(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Refused(error)
    }
}

/// How a check ended.
pub(crate) type Checked = Result<(), Stop>;

/// A line of text on the stack. What does not fit is cut off.
pub(crate) struct Text {
    bytes: [u8; 300],
    len: usize,
}

impl Text {
    pub(crate) const fn new() -> Text {
        Text { bytes: [0; 300], len: 0 }
    }

    pub(crate) fn set(&mut self, text: fmt::Arguments<'_>) {
        self.len = 0;
        let _ = self.write_fmt(text);
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut len = text.len().min(self.bytes.len() - self.len);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Writes text between the quotation marks of a JSON string (RFC 8259, section 7).
struct Quoted<'a>(&'a mut dyn Write);

impl Write for Quoted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match character {
            '"' => self.0.write_str("\\\""),
            '\\' => self.0.write_str("\\\\"),
            '\0'..='\x1f' => write!(self.0, "\\u{:04x}", u32::from(character)),
            character => self.0.write_char(character),
        })
    }
}

/// Where the lines go.
pub(crate) struct Report<'a> {
    out: &'a mut dyn Write,
    json: bool,
    summary: Summary,
}

impl<'a> Report<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, json: bool) -> Report<'a> {
        Report { out, json, summary: Summary::default() }
    }

    pub(crate) fn summary(&self) -> Summary {
        self.summary
    }

    /// Writes one member of a JSON object.
    fn member(&mut self, key: &str, value: fmt::Arguments<'_>) {
        let _ = write!(self.out, "\"{key}\": \"");
        let _ = Quoted(self.out).write_fmt(value);
        let _ = self.out.write_char('"');
    }

    pub(crate) fn fact(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if !self.json {
            let _ = writeln!(self.out, "{name:<30} {value}");
            return;
        }
        let _ = self.out.write_char('{');
        self.member("fact", format_args!("{name}"));
        let _ = self.out.write_str(", ");
        self.member("value", value);
        let _ = self.out.write_str("}\n");
    }

    pub(crate) fn checked(&mut self, name: &str, checked: Checked, note: &str) {
        let mut text = Text::new();
        let (result, count) = match checked {
            Ok(()) => ("pass", &mut self.summary.passed),
            Err(Stop::Failed) => ("fail", &mut self.summary.failed),
            Err(Stop::NotSupported) => ("not supported", &mut self.summary.not_supported),
            Err(Stop::Refused(error)) => {
                text.set(format_args!("{error}"));
                match error.kind() {
                    ErrorKind::NotSupported => ("not supported", &mut self.summary.not_supported),
                    _ => ("fail", &mut self.summary.failed),
                }
            }
        };
        *count += 1;
        let detail = if text.as_str().is_empty() { note } else { text.as_str() };
        if self.json {
            let _ = self.out.write_char('{');
            self.member("check", format_args!("{name}"));
            let _ = self.out.write_str(", ");
            self.member("result", format_args!("{result}"));
            let _ = self.out.write_str(", ");
            self.member("detail", format_args!("{detail}"));
            let _ = self.out.write_str("}\n");
        } else if detail.is_empty() {
            let _ = writeln!(self.out, "{result:<13}  {name}");
        } else {
            let _ = writeln!(self.out, "{result:<13}  {name} ({detail})");
        }
    }

    /// Writes the closing line.
    pub(crate) fn finish(&mut self) -> Summary {
        let summary = self.summary;
        let Summary { passed, failed, not_supported } = summary;
        let _ = match self.json {
            false => writeln!(self.out, "{summary}"),
            true => writeln!(
                self.out,
                "{{\"passed\": {passed}, \"failed\": {failed}, \"not_supported\": {not_supported}}}"
            ),
        };
        summary
    }
}
