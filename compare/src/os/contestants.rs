//! The operations as each contestant has them. A peer that has not an operation does not get it
//! built by hand; what a program does by hand without any library is the bare calls.

use std::io;

use mmap_rs::{MmapOptions, ReservedMut, ReservedNone};
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};
use sysmem::{
    Account, GiveBack, Native, Os, PageRange, Policy, Protection, Reservation, ReserveOptions,
};

use super::{GIB, Outcome};

/// Address space that one contestant reserved. `None` is for an operation it has not.
pub trait Contestant: Sized {
    /// Reserves: an access faults, no memory is used.
    fn reserve(len: usize) -> Option<Outcome<Self>>;

    /// Reserves at a multiple of `align`.
    fn reserve_aligned(len: usize, align: usize) -> Option<Outcome<Self>> {
        let _ = (len, align);
        None
    }

    /// Reserves 1 GiB and makes the first `len` bytes readable and writable.
    fn ready(len: usize) -> Option<Outcome<Self>> {
        Some(Self::reserve(GIB)?.and_then(|mut one| {
            one.commit(len)?;
            Ok(one)
        }))
    }

    /// Makes the first `len` bytes of a reservation readable and writable.
    fn commit(&mut self, len: usize) -> Outcome<()>;

    /// Gives the memory of the first `len` bytes back, at once or when the system wants it.
    fn decommit(&mut self, len: usize, lazily: bool) -> Option<Outcome<()>> {
        let _ = (len, lazily);
        None
    }

    /// Makes the first `len` bytes readable and writable after a decommit.
    fn recommit(&mut self, len: usize) -> Outcome<()> {
        let _ = len;
        Ok(())
    }

    /// The first byte.
    fn start(&mut self) -> *mut u8;

    /// Writes to each page of the first `len` bytes, which are readable and writable.
    fn write(&mut self, len: usize) {
        for offset in (0..len.min(64 << 10)).step_by(sysmem::page_size()) {
            // SAFETY: committed just before, and nobody else's.
            unsafe { self.start().add(offset).write_volatile(1) };
        }
    }

    /// Gives the whole reservation back.
    fn release(self) -> Outcome<()>;
}

/// mmap(2), mprotect(2), madvise(2), munmap(2); alignment by reserving more and trimming.
pub struct Bare {
    start: *mut u8,
    len: usize,
}

fn done(answer: libc::c_int) -> Outcome<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

impl Contestant for Bare {
    fn reserve(len: usize) -> Option<Outcome<Bare>> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED nothing is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        Some(match start == libc::MAP_FAILED {
            false => Ok(Bare { start: start.cast(), len }),
            true => Err(io::Error::last_os_error().into()),
        })
    }

    fn reserve_aligned(len: usize, align: usize) -> Option<Outcome<Bare>> {
        let slack = align - sysmem::page_size();
        let trim = |from: *mut u8, len: usize| match len {
            0 => Ok(()),
            // SAFETY: part of what was just reserved, and not of what is kept.
            len => done(unsafe { libc::munmap(from.cast(), len) }),
        };
        Some(Bare::reserve(len + slack)?.and_then(|whole| {
            let head = whole.start.addr().wrapping_neg() & (align - 1);
            let start = whole.start.wrapping_add(head);
            trim(whole.start, head)?;
            trim(start.wrapping_add(len), slack - head)?;
            Ok(Bare { start, len })
        }))
    }

    fn commit(&mut self, len: usize) -> Outcome<()> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the start of our own reservation.
        done(unsafe { libc::mprotect(self.start.cast(), len, protection) })
    }

    fn decommit(&mut self, len: usize, lazily: bool) -> Option<Outcome<()>> {
        let advice = if lazily { libc::MADV_FREE } else { libc::MADV_DONTNEED };
        // SAFETY: the start of our own reservation, whose contents nobody needs.
        Some(done(unsafe { libc::madvise(self.start.cast(), len, advice) }))
    }

    fn start(&mut self) -> *mut u8 {
        self.start
    }

    fn release(self) -> Outcome<()> {
        // SAFETY: our own reservation, not used again.
        done(unsafe { libc::munmap(self.start.cast(), self.len) })
    }
}

pub struct Rustix {
    start: *mut u8,
    len: usize,
}

impl Contestant for Rustix {
    fn reserve(len: usize) -> Option<Outcome<Rustix>> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: without MAP_FIXED nothing is replaced.
        let start =
            unsafe { mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) };
        Some(start.map(|start| Rustix { start: start.cast(), len }).map_err(Into::into))
    }

    fn commit(&mut self, len: usize) -> Outcome<()> {
        let protection = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the start of our own reservation.
        Ok(unsafe { mm::mprotect(self.start.cast(), len, protection) }?)
    }

    fn decommit(&mut self, len: usize, lazily: bool) -> Option<Outcome<()>> {
        let advice = if lazily { Advice::LinuxFree } else { Advice::LinuxDontNeed };
        // SAFETY: the start of our own reservation, whose contents nobody needs.
        Some(unsafe { mm::madvise(self.start.cast(), len, advice) }.map_err(Into::into))
    }

    fn start(&mut self) -> *mut u8 {
        self.start
    }

    fn release(self) -> Outcome<()> {
        // SAFETY: our own reservation, not used again.
        Ok(unsafe { mm::munmap(self.start.cast(), self.len) }?)
    }
}

pub struct Region(region::Allocation);

impl Contestant for Region {
    fn reserve(len: usize) -> Option<Outcome<Region>> {
        Some(region::alloc(len, region::Protection::NONE).map(Region).map_err(Into::into))
    }

    fn commit(&mut self, len: usize) -> Outcome<()> {
        // SAFETY: the start of our own reservation.
        Ok(unsafe { region::protect(self.start(), len, region::Protection::READ_WRITE) }?)
    }

    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    fn release(self) -> Outcome<()> {
        Ok(())
    }
}

/// Committing a part means splitting the reservation there.
pub struct MmapRs {
    reserved: ReservedNone,
    ready: Option<ReservedMut>,
}

impl Contestant for MmapRs {
    fn reserve(len: usize) -> Option<Outcome<MmapRs>> {
        let reserved = MmapOptions::new(len).and_then(MmapOptions::reserve_none);
        Some(reserved.map(|reserved| MmapRs { reserved, ready: None }).map_err(Into::into))
    }

    fn commit(&mut self, len: usize) -> Outcome<()> {
        let part = self.reserved.split_to(len)?;
        self.ready = Some(part.make_mut().map_err(|(_, error)| error)?);
        Ok(())
    }

    fn start(&mut self) -> *mut u8 {
        match &mut self.ready {
            Some(ready) => ready.as_mut_ptr(),
            None => self.reserved.as_mut_ptr(),
        }
    }

    fn release(self) -> Outcome<()> {
        Ok(())
    }
}

/// Its memory is readable and writable from the start.
pub struct MemMap2(memmap2::MmapMut);

impl Contestant for MemMap2 {
    fn reserve(_len: usize) -> Option<Outcome<MemMap2>> {
        None
    }

    fn ready(_len: usize) -> Option<Outcome<MemMap2>> {
        let map = memmap2::MmapOptions::new().len(GIB).no_reserve_swap().map_anon();
        Some(map.map(MemMap2).map_err(Into::into))
    }

    fn commit(&mut self, _len: usize) -> Outcome<()> {
        Ok(())
    }

    fn decommit(&mut self, len: usize, lazily: bool) -> Option<Outcome<()>> {
        let advice = match lazily {
            true => memmap2::UncheckedAdvice::Free,
            false => memmap2::UncheckedAdvice::DontNeed,
        };
        // SAFETY: nobody needs the contents, and no slice of them is about.
        Some(unsafe { self.0.unchecked_advise_range(advice, 0, len) }.map_err(Into::into))
    }

    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    fn release(self) -> Outcome<()> {
        Ok(())
    }
}

/// The operations of `Os`, without accounts or states.
pub struct Raw(PageRange);

impl Raw {
    fn reserve_as(options: ReserveOptions) -> Option<Outcome<Raw>> {
        let start = Native::NEW.reserve(&options);
        let raw = start.map(|start| Raw(PageRange::new(start.as_ptr(), options.len())));
        Some(raw.map_err(Into::into))
    }
}

impl Contestant for Raw {
    fn reserve(len: usize) -> Option<Outcome<Raw>> {
        Raw::reserve_as(ReserveOptions::new(len))
    }

    fn reserve_aligned(len: usize, align: usize) -> Option<Outcome<Raw>> {
        Raw::reserve_as(ReserveOptions::new(len).align(align))
    }

    fn commit(&mut self, len: usize) -> Outcome<()> {
        let range = PageRange::new(self.0.start, len);
        // SAFETY: the start of our own reservation, which is Reserved.
        unsafe { Native::NEW.map(range, Protection::ReadWrite, Policy::DEFAULT) }?;
        self.recommit(len)
    }

    fn decommit(&mut self, len: usize, lazily: bool) -> Option<Outcome<()>> {
        let range = PageRange::new(self.0.start, len);
        let how = if lazily { GiveBack::Lazy } else { GiveBack::Eager };
        let protection = Protection::ReadWrite;
        // SAFETY: Ready, our own, and nobody needs the contents.
        let unused = unsafe { Native::NEW.unused(range, protection, how, Policy::DEFAULT) };
        Some(unused.map_err(Into::into))
    }

    fn recommit(&mut self, len: usize) -> Outcome<()> {
        let range = PageRange::new(self.0.start, len);
        // SAFETY: our own, and Prepared.
        Ok(unsafe { Native::NEW.used(range, Protection::ReadWrite) }?)
    }

    fn start(&mut self) -> *mut u8 {
        self.0.start
    }

    fn release(self) -> Outcome<()> {
        // SAFETY: the whole reservation, not used again.
        Ok(unsafe { Native::NEW.free(self.0) }?)
    }
}

/// A `Reservation`: states and accounts are kept.
pub struct Reserved(Reservation);

static RESERVED: Account = Account::new("reserved");

impl Contestant for Reserved {
    fn reserve(len: usize) -> Option<Outcome<Reserved>> {
        let reserved = Reservation::reserve(ReserveOptions::new(len), &RESERVED);
        Some(reserved.map(Reserved).map_err(Into::into))
    }

    fn reserve_aligned(len: usize, align: usize) -> Option<Outcome<Reserved>> {
        let options = ReserveOptions::new(len).align(align);
        Some(Reservation::reserve(options, &RESERVED).map(Reserved).map_err(Into::into))
    }

    fn commit(&mut self, len: usize) -> Outcome<()> {
        self.0.map(0, len, Protection::ReadWrite)?;
        self.recommit(len)
    }

    fn decommit(&mut self, len: usize, lazily: bool) -> Option<Outcome<()>> {
        let how = if lazily { GiveBack::Lazy } else { GiveBack::Eager };
        Some(self.0.unused(0, len, how).map_err(Into::into))
    }

    fn recommit(&mut self, len: usize) -> Outcome<()> {
        Ok(self.0.used(0, len)?)
    }

    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    fn release(self) -> Outcome<()> {
        Ok(self.0.free().map_err(|(_, error)| error)?)
    }
}
