//! What Darwin tells through libproc and Mach.

use core::time::Duration;
use std::string::{String, ToString};
use std::vec::Vec;

use super::{Answers, EINVAL, ESRCH, PROCESS, Speaks, fill};
use crate::Errno;
use crate::calls::{MachStatistics, MachVm, ResourceUsage, Resources, SwitchPerThread};

#[derive(Default)]
pub(super) struct MachAnswers {
    task: Vec<u8>,
    rusage: Vec<u8>,
    vm_info: Vec<u8>,
    statistics: Vec<u8>,
    /// Where each ends.
    regions: Vec<(u64, Vec<u8>)>,
    program: String,
}

impl MachAnswers {
    pub fn all_bytes(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        let regions = self.regions.iter_mut().map(|(_, bytes)| bytes);
        [&mut self.task, &mut self.rusage, &mut self.vm_info, &mut self.statistics]
            .into_iter()
            .chain(regions)
    }
}

impl<S> Answers<S> {
    pub fn mach(
        mut self,
        task: Vec<u8>,
        rusage: Vec<u8>,
        vm_info: Vec<u8>,
        statistics: Vec<u8>,
        regions: Vec<(u64, Vec<u8>)>,
        program: &str,
    ) -> Self {
        let program = program.to_string();
        self.mach = MachAnswers { task, rusage, vm_info, statistics, regions, program };
        self
    }

    pub fn regions(mut self, regions: Vec<(u64, Vec<u8>)>) -> Self {
        self.mach.regions = regions;
        self
    }
}

impl<S: Speaks> ResourceUsage for Answers<S> {
    fn resource_usage(&self) -> Resources {
        Resources {
            user_time: Duration::from_millis(5),
            system_time: Duration::from_millis(6),
            minor_faults: 7,
            major_faults: 8,
        }
    }
}

impl<S: Speaks> MachVm for Answers<S> {
    fn mach_vm_map(&self, _: usize, _: usize, _: usize, _: i32, _: i32) -> Result<*mut u8, i32> {
        Err(3)
    }

    fn mach_vm_region(&self, _: usize) -> Option<(usize, usize)> {
        None
    }
}

impl<S: Speaks> SwitchPerThread for Answers<S> {
    fn switches_per_thread(&self) -> bool {
        false
    }

    fn let_thread_write(&self, _: bool) {}
}

impl<S: Speaks> MachStatistics for Answers<S> {
    fn process_info(
        &self,
        process: i32,
        flavor: i32,
        argument: u64,
        info: &mut [u8],
    ) -> Result<usize, Errno> {
        match flavor {
            _ if process != PROCESS => Err(ESRCH),
            4 => fill(&self.mach.task, info),
            8 => {
                let mut regions = self.mach.regions.iter();
                let region = regions.find(|(end, _)| *end > argument).ok_or(EINVAL)?;
                fill(&region.1, info)
            }
            _ => Err(EINVAL),
        }
    }

    fn process_rusage(&self, process: i32, _: i32, info: &mut [u8; 296]) -> Result<(), Errno> {
        if process != PROCESS {
            return Err(ESRCH);
        }
        fill(&self.mach.rusage, info).map(drop)
    }

    fn process_path(&self, process: i32, path: &mut [u8]) -> Result<usize, Errno> {
        if process != PROCESS {
            return Err(ESRCH);
        }
        fill(self.mach.program.as_bytes(), path)
    }

    fn own_task_info(&self, _: u32, info: &mut [u8]) -> Option<usize> {
        fill(&self.mach.vm_info, info).ok()
    }

    fn host_statistics(&self, _: i32, info: &mut [u8]) -> Option<usize> {
        fill(&self.mach.statistics, info).ok()
    }

    fn clock_ratio(&self) -> (u32, u32) {
        (125, 3)
    }
}
