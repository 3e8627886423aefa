//! The conformance suite on the running system.

use std::fmt;
use std::io::{self, Write};

use sysmem_probe::{Options, Summary};

/// Performs every operation of the memory layer and prints what the kernel did. 1 if a promise was
/// broken, else 0.
pub fn probe(json: bool) -> i32 {
    let options = Options { json, beside: Some(beside) };
    let summary: Summary = sysmem_probe::run_native(&mut Standard, options);
    i32::from(summary.failed != 0)
}

fn beside(work: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}

/// Standard output, line by line as the checks go.
struct Standard;

impl fmt::Write for Standard {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        io::stdout().write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
