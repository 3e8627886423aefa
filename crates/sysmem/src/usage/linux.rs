//! Linux's figures, read from /proc, /sys and the control groups without a heap.

use super::{ControlGroup, Detail, MachineUsage, Mapping, PageRun, Process, ProcessUsage, Usage};
use crate::calls::{PagemapScan, ResourceUsage};
use crate::huge::HugePageControl;
use crate::os::linux::{Linux, LinuxCalls};
use crate::{Error, PageRange};

mod control_group;
mod machine;
mod mappings;
mod pagemap;
mod process;

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
