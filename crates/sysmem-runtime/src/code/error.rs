use core::fmt;

use sysmem::Error;

use super::mechanism::Refusals;

/// What stands in the way of an operation on code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// The system refused.
    Memory(Error),
    /// The system allows none of the mechanisms that were tried; why not, in their order.
    NoMechanism(Refusals),
    /// The page at this offset is published.
    Published(usize),
    /// The page at this offset is not published.
    NotPublished(usize),
    /// Nothing was ever written to the page at this offset.
    NotWritten(usize),
    /// With [`CodeMechanism::Switch`](crate::CodeMechanism::Switch) code cannot be changed while it runs.
    NotWhileRunning,
    /// A patch has to lie in one word of eight bytes, aligned.
    NotOneWord,
}

impl From<Error> for CodeError {
    fn from(error: Error) -> CodeError {
        CodeError::Memory(error)
    }
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            CodeError::Memory(error) => error.fmt(f),
            CodeError::NoMechanism(refusals) => {
                f.write_str("the system allows no memory for code")?;
                for refusal in refusals.into_iter().flatten() {
                    write!(f, "; {refusal}")?;
                }
                Ok(())
            }
            CodeError::Published(offset) => {
                write!(f, "the page at offset {offset:#x} is published; unpublish it, or patch it")
            }
            CodeError::NotPublished(offset) => {
                write!(f, "the page at offset {offset:#x} is not published; publish it first")
            }
            CodeError::NotWritten(offset) => {
                write!(f, "nothing was written to the page at offset {offset:#x}; write it first")
            }
            CodeError::NotWhileRunning => f.write_str(
                "this region is switched by protection and cannot be changed while it runs; stop \
                 the threads that run it, then unpublish, write and publish",
            ),
            CodeError::NotOneWord => f.write_str(
                "a patch must lie in one aligned word of eight bytes; align the instruction",
            ),
        }
    }
}

impl core::error::Error for CodeError {}
