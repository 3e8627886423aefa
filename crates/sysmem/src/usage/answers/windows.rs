//! What Windows tells of processes.

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use super::{Answers, Speaks, fill, records};
use crate::Errno;
use crate::calls::{AddressRequirements, ProcessStatistics, Region, VirtualMemory, WorkingSetPage};
use crate::usage::bytes::Bytes;

#[derive(Default)]
pub(super) struct WindowsAnswers {
    /// Of the process, the machine, the job.
    structures: [Vec<u8>; 3],
    regions: Vec<Vec<u8>>,
    /// Where the program is mapped.
    program: usize,
    names: BTreeMap<usize, String>,
}

impl WindowsAnswers {
    pub fn all_bytes(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        self.structures.iter_mut().chain(&mut self.regions)
    }
}

impl<S> Answers<S> {
    pub fn windows(
        mut self,
        structures: [Vec<u8>; 3],
        regions: Vec<Vec<u8>>,
        program: usize,
        names: &[(usize, &str)],
    ) -> Self {
        let names = names.iter().map(|&(at, name)| (at, name.to_string())).collect();
        self.windows = WindowsAnswers { structures, regions, program, names };
        self
    }

    pub fn windows_regions(mut self, regions: Vec<Vec<u8>>) -> Self {
        self.windows.regions = regions;
        self
    }
}

fn fill_wide(text: &str, buffer: &mut [u16]) -> Option<usize> {
    let wide: Vec<u16> = text.encode_utf16().collect();
    buffer.get_mut(..wide.len())?.copy_from_slice(&wide);
    (!wide.is_empty()).then_some(wide.len())
}

// SAFETY: what it maps is memory of the heap that nobody else has.
unsafe impl<S: Speaks> VirtualMemory for Answers<S> {
    fn allocation_granularity(&self) -> usize {
        1 << 16
    }

    unsafe fn virtual_alloc(
        &self,
        at: *mut u8,
        len: usize,
        _: u32,
        _: u32,
    ) -> Result<*mut u8, Errno> {
        records(at, len)
    }

    fn reserve_where(&self, _: AddressRequirements, _: usize) -> Option<Result<*mut u8, Errno>> {
        None
    }

    unsafe fn virtual_free(&self, _: *mut u8, _: usize, _: u32) -> Result<(), Errno> {
        Err(Errno(487))
    }

    unsafe fn virtual_protect(&self, _: *mut u8, _: usize, _: u32) -> Result<(), Errno> {
        Err(Errno(487))
    }

    unsafe fn unmap_view(&self, _: *mut u8) -> Result<(), Errno> {
        Err(Errno(487))
    }

    fn virtual_query(&self, _: usize) -> Option<Region> {
        None
    }

    fn working_set(&self, _: &mut [WorkingSetPage]) -> Result<(), Errno> {
        Err(Errno(87))
    }

    fn commit_limit(&self) -> Option<u64> {
        None
    }
}

impl<S: Speaks> ProcessStatistics for Answers<S> {
    fn open_process(&self, id: Option<u32>) -> Result<isize, Errno> {
        match id {
            None => Ok(-1),
            Some(17) => Ok(100),
            // The system's own.
            Some(4) => Err(Errno(5)),
            Some(_) => Err(Errno(87)),
        }
    }

    fn close_process(&self, _: isize) {}

    fn has_ended(&self, _: isize) -> bool {
        false
    }

    fn memory_counters(&self, _: isize, counters: &mut [u8; 80]) -> Result<(), Errno> {
        fill(&self.windows.structures[0], counters).map(drop)
    }

    fn process_times(&self, _: isize) -> Result<(u64, u64), Errno> {
        Ok((20_000, 30_000))
    }

    fn query_region(&self, _: isize, address: usize, region: &mut [u8; 48]) -> Result<(), Errno> {
        let holds = |it: &&Vec<u8>| {
            let place = Bytes(it).address(0).zip(Bytes(it).address(24));
            place.is_some_and(|(at, len)| at <= address && address < at.saturating_add(len))
        };
        let found = self.windows.regions.iter().find(holds).ok_or(Errno(87))?;
        fill(found, region).map(drop)
    }

    fn mapped_file(&self, _: isize, address: usize, name: &mut [u16]) -> Option<usize> {
        fill_wide(self.windows.names.get(&address)?, name)
    }

    fn program_base(&self, _: isize) -> Option<usize> {
        Some(self.windows.program)
    }

    /// Every third page is resident.
    fn working_set_of(&self, _: isize, pages: &mut [WorkingSetPage]) -> Result<(), Errno> {
        for page in pages {
            page.attributes = usize::from((page.address >> 12) % 3 == 0);
        }
        Ok(())
    }

    fn performance(&self, information: &mut [u8; 104]) -> Result<(), Errno> {
        fill(&self.windows.structures[1], information).map(drop)
    }

    fn page_files(&self) -> Option<(usize, usize)> {
        Some((9, 4))
    }

    fn large_page_minimum(&self) -> usize {
        2 << 20
    }

    fn own_job_limits(&self, limits: &mut [u8; 144]) -> Result<(), Errno> {
        fill(&self.windows.structures[2], limits).map(drop)
    }

    fn memory_is_short(&self) -> Option<bool> {
        Some(false)
    }
}
