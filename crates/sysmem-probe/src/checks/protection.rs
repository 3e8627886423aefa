//! `map`, `used` and `protect`: what each protection allows.

use sysmem::{Os, Protection};

use super::Suite;
use crate::platform::{Access, Platform, Seen};
use crate::report::Checked;

/// A function that returns `answer`.
#[cfg(target_arch = "x86_64")]
fn code(answer: u8) -> Option<[u8; 8]> {
    // mov eax, answer; ret; nop; nop
    Some([0xb8, answer, 0, 0, 0, 0xc3, 0x90, 0x90])
}

/// A function that returns `answer`.
#[cfg(target_arch = "aarch64")]
fn code(answer: u8) -> Option<[u8; 8]> {
    // mov w0, answer; ret
    let [a, b, c, d] = (0x5280_0000 | u32::from(answer) << 5).to_le_bytes();
    Some([a, b, c, d, 0xc0, 0x03, 0x5f, 0xd6])
}

/// No function: this processor's code is not known here.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn code(_answer: u8) -> Option<[u8; 8]> {
    None
}

/// Makes code that was written visible to instruction fetches.
fn synchronize_code(start: *mut u8) {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: cleans and invalidates the line of an address that is mapped and readable.
    unsafe {
        core::arch::asm!(
            "dc cvau, {line}", "dsb ish", "ic ivau, {line}", "dsb ish", "isb",
            line = in(reg) start, options(nostack)
        );
    }
    #[cfg(not(target_arch = "aarch64"))]
    let _ = start;
}

impl<O: Os, P: Platform> Suite<'_, O, P> {
    pub(super) fn protection(&self) {
        self.check("map, used: no access, reading and writing fault", |suite| {
            let region = suite.ready(4, Protection::NoAccess)?;
            suite.faults_throughout(region.range())
        });
        self.check("map, used: read only, reads zero and writing faults", |suite| {
            suite.readable_not_writable(Protection::ReadOnly)
        });
        self.check("map, used: read and write, zero at first and then as written", |suite| {
            let region = suite.ready(16, Protection::ReadWrite)?;
            suite.zero(region.range())?;
            let seed = suite.fill(region.range())?;
            suite.holds(region.range(), seed, 0)
        });
        self.check("map, used: read and execute, reads zero and writing faults", |suite| {
            suite.readable_not_writable(Protection::ReadExecute)
        });
        self.check("map: the pages around a part stay reserved", Self::part_of_a_reservation);
        self.check("protect: code that was written runs, and again after a change", Self::code);
        self.check("protect: contents stay through every protection", Self::contents_stay);
        self.check("protect: access that is taken away faults", Self::access_taken_away);
        self.check("protect: the pages around a part stay as they are", Self::part_protected);
    }

    fn readable_not_writable(&self, protection: Protection) -> Checked {
        let region = self.ready(4, protection)?;
        self.zero(region.range())?;
        self.faults(region.pages(3, 1).start, Access::Write)?;
        self.faults(region.start, Access::Write)
    }

    fn part_of_a_reservation(&self) -> Checked {
        let region = self.reserve(12 * self.page_size())?;
        region.make_ready(region.pages(4, 4), Protection::ReadWrite)?;
        let seed = self.fill(region.pages(4, 4))?;
        self.faults_throughout(region.pages(0, 4))?;
        self.faults_throughout(region.pages(8, 4))?;
        self.holds(region.pages(4, 4), seed, 0)
    }

    fn code(&self) -> Checked {
        let region = self.executable(1)?;
        for answer in [42, 43] {
            let Some(code) = code(answer) else {
                return Err(self.cannot("the suite has no code for this processor"));
            };
            region.protect(region.range(), Protection::ReadWrite)?;
            self.allowed(region.start, Access::Write)?;
            for (index, byte) in code.into_iter().enumerate() {
                // SAFETY: inside a page that is Ready and writable.
                unsafe { region.start.add(index).write_volatile(byte) };
            }
            region.protect(region.range(), Protection::ReadExecute)?;
            self.allowed(region.start, Access::Read)?;
            synchronize_code(region.start);
            match self.access(region.start, Access::Execute) {
                None => return Err(self.cannot("the platform cannot run code apart")),
                Some(Seen::Value(value)) if value == answer => {}
                Some(seen) => {
                    return Err(self.failed(format_args!("expected {answer}: {seen}")));
                }
            }
        }
        self.faults(region.start, Access::Write)
    }

    fn contents_stay(&self) -> Checked {
        let region = self.executable(16)?;
        let seed = self.fill(region.range())?;
        for protection in [
            Protection::NoAccess,
            Protection::ReadOnly,
            Protection::NoAccess,
            Protection::ReadExecute,
            Protection::ReadWrite,
        ] {
            region.protect(region.range(), protection)?;
            if protection != Protection::NoAccess {
                self.holds(region.range(), seed, 0)?;
            }
        }
        let seed = self.fill(region.range())?;
        self.holds(region.range(), seed, 0)
    }

    fn access_taken_away(&self) -> Checked {
        let region = self.ready(4, Protection::ReadWrite)?;
        self.fill(region.range())?;
        region.protect(region.range(), Protection::ReadOnly)?;
        self.faults(region.start, Access::Write)?;
        region.protect(region.range(), Protection::NoAccess)?;
        self.faults_throughout(region.range())
    }

    fn part_protected(&self) -> Checked {
        let region = self.ready(12, Protection::ReadWrite)?;
        let seed = self.fill(region.range())?;
        region.protect(region.pages(4, 4), Protection::NoAccess)?;
        self.holds(region.pages(0, 4), seed, 0)?;
        self.holds(region.pages(8, 4), seed, 8)?;
        let (below, above) = (self.fill(region.pages(0, 4))?, self.fill(region.pages(8, 4))?);
        region.protect(region.pages(4, 4), Protection::ReadOnly)?;
        self.holds(region.pages(4, 4), seed, 4)?;
        self.holds(region.pages(0, 4), below, 0)?;
        self.holds(region.pages(8, 4), above, 0)
    }
}
