//! A process on one of the simulated Unixes, which is asked the questions.

mod numbers;

use std::ffi::CStr;

use sysmem::calls::UnixCalls;
use sysmem::sim::{Backing, Settings, Signal, Simulated};
use sysmem::{Errno, PageRange, Protection};

pub(crate) use numbers::Numbers;

pub(crate) const PAGE: usize = 4096;
pub(crate) const NONE: i32 = 0;
pub(crate) const READ: i32 = 1;
pub(crate) const RW: i32 = 3;
pub(crate) const ANON: i32 = 0x1002;
pub(crate) const SHARED: i32 = 0x1001;
pub(crate) const FIXED: i32 = 0x10;
pub(crate) const GUARD: i32 = 0x2000;
pub(crate) const DONTNEED: i32 = 4;

fn code(result: Result<(), Errno>) -> i64 {
    result.map_or_else(|errno| errno.0.into(), |()| 0)
}

/// A process on one of the kernels. Calls answer zero or an error number.
pub(crate) trait Process {
    fn name(&self) -> &'static str;
    /// `MADV_FREE`.
    fn free_advice(&self) -> i32;
    /// The flags that map at an address if it is free.
    fn no_replace(&self) -> i32;
    fn start(&self) -> usize;
    /// The address that mmap gives.
    fn mmap(&self, address: usize, len: usize, bits: i32, flags: i32) -> Result<usize, i64>;
    fn munmap(&self, address: usize, len: usize) -> i64;
    fn mprotect(&self, address: usize, len: usize, bits: i32) -> i64;
    fn madvise(&self, address: usize, len: usize, advice: i32) -> i64;
    fn minherit(&self, address: usize, len: usize, inherit: i32) -> i64;
    /// The address that mmap gives with a descriptor and an offset.
    fn mmap_of(
        &self,
        len: usize,
        bits: i32,
        flags: i32,
        file: i32,
        offset: usize,
    ) -> Result<usize, i64>;
    /// `MAP_STACK`.
    fn stack(&self) -> i32;
    /// mquery of OpenBSD.
    fn query(&self, address: usize, len: usize, fixed: bool) -> Result<usize, i64>;
    /// mimmutable of OpenBSD.
    fn seal(&self, address: usize, len: usize) -> i64;
    /// The number that a sysctl holds at an offset; an error number, negative.
    fn fact(&self, name: &CStr, offset: usize) -> i64;
    /// Memory is wanted.
    fn pressure(&self);
    /// Pages of the process in memory, as the kernel tells it.
    fn resident(&self) -> i64;
    /// Forks, lets the child give advice, and tells what the child finds then.
    fn fork_advised(&self, advice: &[(usize, i32)]) -> Vec<i64>;
    fn lock(&self, address: usize, len: usize, locked: bool) -> i64;
    /// The bytes of mincore; an error number alone.
    fn mincore(&self, address: usize, npages: usize) -> Vec<i64>;
    /// The byte of the page that holds the address, as a number; -1 where it faults.
    fn read(&self, address: usize) -> i64;
    fn write(&self, address: usize, value: u8);
    /// Forks, and lets the child see what it finds at the addresses after the process has done
    /// something; an error number alone.
    fn fork(&self, then: &dyn Fn(), addresses: &[usize]) -> Vec<i64>;
    /// Bytes charged, as the kernel tells it.
    fn charged(&self) -> i64;
    /// Pages of the process, as the kernel tells it.
    fn size(&self) -> i64;
    /// Where the program itself lies.
    fn program(&self) -> usize;
    /// Maps pages for another part of the process.
    fn occupy(&self, address: usize, npages: usize);
    /// The signal for an access that needs this protection.
    fn signal(&self, address: usize, needed: Protection) -> Option<Signal>;
    /// What each page allows: 0 nothing, 1 reading, 3 writing too, -1 not mapped.
    fn protections(&self, address: usize, npages: usize) -> Vec<i64>;
}

impl dyn Process + '_ {
    /// Maps pages anywhere.
    pub(crate) fn map(&self, npages: usize, bits: i32) -> usize {
        self.mmap(0, npages * PAGE, bits, ANON).unwrap()
    }

    /// Maps writable pages, and writes 7 to each.
    pub(crate) fn touched(&self, npages: usize) -> usize {
        let start = self.map(npages, RW);
        (0..npages).for_each(|page| self.write(start + page * PAGE, 7));
        start
    }

    /// As `touched`, with a hole in the middle.
    pub(crate) fn with_hole(&self, npages: usize) -> usize {
        let start = self.touched(npages);
        assert_eq!(self.munmap(start + npages / 2 * PAGE, PAGE), 0);
        start
    }

    /// Zero or the error number of mmap.
    pub(crate) fn try_map(&self, address: usize, len: usize, bits: i32, flags: i32) -> i64 {
        self.mmap(address, len, bits, flags).map_or_else(|errno| errno, |_| 0)
    }

    /// What the pages hold.
    pub(crate) fn contents(&self, address: usize, npages: usize) -> Vec<i64> {
        (0..npages).map(|page| self.read(address + page * PAGE)).collect()
    }

    /// An address that is free, with nothing around.
    pub(crate) fn free_place(&self) -> usize {
        self.start() + (8 << 20)
    }
}

pub(crate) struct Running<S: Numbers>(Simulated<S>);

impl<S: Numbers> Running<S> {
    pub(crate) fn new(settings: &Settings) -> Running<S> {
        let mut settings = settings.clone();
        if let Backing::Addresses { start } = settings.backing {
            // As many as the system has.
            settings.space = S::USER_END - start;
        }
        Running(Simulated::start(settings))
    }
}

impl<S: Numbers> Running<S> {
    /// The pointer to an address of the process, which has its provenance.
    fn at(&self, address: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(address)
    }

    fn allows(&self, address: usize) -> i64 {
        match self.0.protection_at(address) {
            Some(Protection::NoAccess) => 0,
            Some(Protection::ReadOnly) => 1,
            Some(Protection::ReadWrite) => 3,
            Some(Protection::ReadExecute) => 5,
            None => -1,
        }
    }
}

// SAFETY of what follows: the memory is the simulated process's, and this test is the process.
impl<S: Numbers> Process for Running<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn free_advice(&self) -> i32 {
        S::FREE
    }

    fn no_replace(&self) -> i32 {
        S::NO_REPLACE
    }

    fn start(&self) -> usize {
        self.0.space().start
    }

    fn mmap(&self, address: usize, len: usize, bits: i32, flags: i32) -> Result<usize, i64> {
        // SAFETY: see above.
        unsafe { self.0.mmap(self.at(address), len, bits, S::flags(flags)) }
            .map(|start| start.expose_provenance())
            .map_err(|errno| errno.0.into())
    }

    fn munmap(&self, address: usize, len: usize) -> i64 {
        // SAFETY: see above.
        code(unsafe { self.0.munmap(self.at(address), len) })
    }

    fn mprotect(&self, address: usize, len: usize, bits: i32) -> i64 {
        // SAFETY: see above.
        code(unsafe { self.0.mprotect(self.at(address), len, bits) })
    }

    fn madvise(&self, address: usize, len: usize, advice: i32) -> i64 {
        // SAFETY: see above.
        code(unsafe { self.0.madvise(self.at(address), len, advice) })
    }

    fn minherit(&self, address: usize, len: usize, inherit: i32) -> i64 {
        code(S::inherit(&self.0, PageRange::new(self.at(address), len), inherit))
    }

    fn mmap_of(
        &self,
        len: usize,
        bits: i32,
        flags: i32,
        file: i32,
        offset: usize,
    ) -> Result<usize, i64> {
        S::mmap_of(&self.0, (len, bits, S::flags(flags)), (file, offset))
            .map_err(|errno| errno.0.into())
    }

    fn stack(&self) -> i32 {
        S::STACK
    }

    fn query(&self, address: usize, len: usize, fixed: bool) -> Result<usize, i64> {
        S::query(&self.0, address, len, fixed).map_err(|errno| errno.0.into())
    }

    fn seal(&self, address: usize, len: usize) -> i64 {
        code(S::seal(&self.0, PageRange::new(self.at(address), len)))
    }

    fn fact(&self, name: &CStr, offset: usize) -> i64 {
        let mut value = [0; 64];
        match S::fact(&self.0, name, &mut value) {
            Ok(len) => {
                let mut number = [0; 8];
                let end = len.min(offset + 8);
                number[..end - offset].copy_from_slice(&value[offset..end]);
                i64::from_le_bytes(number)
            }
            Err(errno) => -i64::from(errno.0),
        }
    }

    fn pressure(&self) {
        self.0.pressure();
    }

    fn resident(&self) -> i64 {
        S::resident(&self.0)
    }

    fn fork_advised(&self, advice: &[(usize, i32)]) -> Vec<i64> {
        let child = self.0.fork().unwrap();
        for &(address, advice) in advice {
            S::madvise_of(&child, address, advice);
        }
        let see = |&(address, _): &(usize, i32)| child.read(address).map_or(-1, i64::from);
        advice.iter().map(see).collect()
    }

    fn lock(&self, address: usize, len: usize, locked: bool) -> i64 {
        code(self.0.lock_memory(PageRange::new(self.at(address), len), locked))
    }

    fn mincore(&self, address: usize, npages: usize) -> Vec<i64> {
        let mut residency = vec![0; npages];
        match S::mincore(&self.0, self.at(address), &mut residency) {
            Ok(()) => residency.into_iter().map(i64::from).collect(),
            Err(errno) => vec![errno.0.into()],
        }
    }

    fn read(&self, address: usize) -> i64 {
        match self.allows(address) {
            -1 | 0 => -1,
            // SAFETY: readable.
            _ => unsafe { self.at(address).read_volatile() }.into(),
        }
    }

    fn write(&self, address: usize, value: u8) {
        assert_eq!(self.allows(address), 3);
        // SAFETY: writable.
        unsafe { self.at(address).write_volatile(value) };
    }

    fn fork(&self, then: &dyn Fn(), addresses: &[usize]) -> Vec<i64> {
        match self.0.fork() {
            Ok(child) => {
                then();
                let see = |&address: &usize| child.read(address).map_or(-1, i64::from);
                addresses.iter().map(see).collect()
            }
            Err(errno) => vec![errno.0.into()],
        }
    }

    fn charged(&self) -> i64 {
        S::charged(&self.0)
    }

    fn size(&self) -> i64 {
        S::size(&self.0)
    }

    fn program(&self) -> usize {
        S::PROGRAM
    }

    fn occupy(&self, address: usize, npages: usize) {
        self.0.occupy(address..address + npages * PAGE);
    }

    fn signal(&self, address: usize, needed: Protection) -> Option<Signal> {
        self.0.signal_at(address, needed)
    }

    fn protections(&self, address: usize, npages: usize) -> Vec<i64> {
        (0..npages).map(|page| self.allows(address + page * PAGE)).collect()
    }
}
