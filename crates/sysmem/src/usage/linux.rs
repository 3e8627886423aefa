//! Linux's figures, read from /proc, /sys and the control groups without a heap.

use super::files::File;
use super::lines::{field, kilobytes, number};
use super::{ControlGroup, Detail, MachineUsage, Mapping, PageRun, Process, ProcessUsage, Usage};
use crate::calls::{Files, PagemapScan, ResourceUsage};
use crate::huge::HugePageControl;
use crate::os::linux::{Linux, LinuxCalls};
use crate::{Error, PageRange};

mod control_group;
mod machine;
mod mappings;
mod pagemap;
mod process;

pub(crate) use super::files::{number_in, read};
pub(crate) use mappings::{has_flag, mapping_lines};

impl<K: LinuxCalls + ResourceUsage + PagemapScan> Usage for Linux<K>
where
    Linux<K>: HugePageControl,
{
    fn process_usage(&self, process: Process, detail: Detail) -> Result<ProcessUsage, Error> {
        process::usage(self.kernel(), process, detail)
    }

    fn machine_usage(&self) -> Result<MachineUsage, Error> {
        machine::usage(self.kernel(), self.huge_pages())
    }

    fn control_group(&self, process: Process) -> Result<ControlGroup, Error> {
        control_group::usage(self.kernel(), process)
    }

    fn mappings(
        &self,
        process: Process,
        detail: Detail,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&Mapping<'_>),
    ) -> Result<(), Error> {
        mappings::mappings(self.kernel(), process, detail, buffer, each)
    }

    fn page_runs(
        &self,
        process: Process,
        range: PageRange,
        each: &mut dyn FnMut(&PageRun),
    ) -> Result<(), Error> {
        pagemap::page_runs(self.kernel(), process, range, each)
    }
}

/// The figures of /proc/PID/statm that the layer needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statm {
    /// The size of the address space: what `RLIMIT_AS` limits.
    pub virtual_size: u64,
    /// Private writable mappings and stacks: about what `RLIMIT_DATA` limits.
    pub data: u64,
}

/// /proc/self/statm (proc_pid_statm(5)): pages of size, resident, shared, text, lib, data, dt.
pub(crate) fn statm(kernel: &impl Files, buffer: &mut [u8]) -> Option<Statm> {
    let text = read(kernel, c"/proc/self/statm", buffer)?;
    let page_size = kernel.page_size() as u64;
    let mut fields = text.split(|&byte| byte == b' ');
    let virtual_size = number(fields.next()?)?.checked_mul(page_size)?;
    let data = number(fields.nth(4)?)?.checked_mul(page_size)?;
    Some(Statm { virtual_size, data })
}

/// A figure of /proc/meminfo, in bytes.
pub(crate) fn meminfo(kernel: &impl Files, key: &[u8]) -> Option<u64> {
    let file = File::open(kernel, c"/proc/meminfo").ok()?;
    let mut found = None;
    let seen = file.lines(&mut [0; 256]).each(|line| {
        found =
            field(line).filter(|&(name, _)| name == key).and_then(|(_, value)| kilobytes(value));
        found.is_none()
    });
    found.filter(|_| seen.is_ok())
}
