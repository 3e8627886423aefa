//! What is different about asking each system: numbers, and calls that not all have.

use std::ffi::CStr;

use sysmem::calls::{Mincore, Minherit, Seal, Sysctl, SysctlByName};
use sysmem::sim::{self, Child, Simulated, UnixSystem};
use sysmem::{Errno, PageRange};

use super::{ANON, FIXED, PAGE};

/// What is different about asking each system.
pub(crate) trait Numbers: UnixSystem {
    const NAME: &'static str;
    const FREE: i32;
    const NO_REPLACE: i32;
    const STACK: i32;
    /// Where the addresses of programs end, as long as they go.
    const USER_END: usize;
    /// Where the program is that asks. With randomized addresses it is anywhere; then no free range
    /// is nearly as long as all addresses.
    const PROGRAM: usize = 1 << 44;
    /// The system's own flags of mmap for those that the questions are asked with.
    fn flags(flags: i32) -> i32 {
        flags
    }
    fn mincore(kernel: &Simulated<Self>, at: *mut u8, residency: &mut [u8]) -> Result<(), Errno>;
    fn inherit(kernel: &Simulated<Self>, range: PageRange, inherit: i32) -> Result<(), Errno>;
    fn charged(_: &Simulated<Self>) -> i64 {
        0
    }
    fn size(_: &Simulated<Self>) -> i64 {
        panic!("{} was not asked", Self::NAME)
    }
    fn resident(_: &Simulated<Self>) -> i64 {
        panic!("{} was not asked", Self::NAME)
    }
    fn query(_: &Simulated<Self>, _: usize, _: usize, _: bool) -> Result<usize, Errno> {
        panic!("{} has no mquery", Self::NAME)
    }
    fn seal(_: &Simulated<Self>, _: PageRange) -> Result<(), Errno> {
        panic!("{} has no mimmutable", Self::NAME)
    }
    fn fact(_: &Simulated<Self>, _: &CStr, _: &mut [u8]) -> Result<usize, Errno> {
        panic!("{} was not asked", Self::NAME)
    }
    /// mmap of a length, with protection and flags, of a file at an offset.
    fn mmap_of(_: &Simulated<Self>, _: (usize, i32, i32), _: (i32, usize)) -> Result<usize, Errno> {
        panic!("{} was not asked", Self::NAME)
    }
    /// A child's own madvise of a page.
    fn madvise_of(_: &Child<Self>, _: usize, _: i32) {
        panic!("{} was not asked", Self::NAME)
    }
}

/// What is alike of all BSDs.
macro_rules! of_a_bsd {
    () => {
        fn mmap_of(
            kernel: &Simulated<Self>,
            (len, bits, flags): (usize, i32, i32),
            what: (i32, usize),
        ) -> Result<usize, Errno> {
            kernel.mmap_of(0, len, bits, flags, what)
        }

        fn madvise_of(child: &Child<Self>, address: usize, advice: i32) {
            child.madvise(address, PAGE, advice);
        }

        of_a_unix_with_minherit!();
    };
}

macro_rules! of_a_unix_with_minherit {
    () => {
        fn inherit(kernel: &Simulated<Self>, range: PageRange, number: i32) -> Result<(), Errno> {
            // SAFETY: the memory is the simulated process's.
            unsafe { kernel.minherit(range.start, range.len, number) }
        }
    };
}

macro_rules! of_a_unix_with_mincore {
    () => {
        fn mincore(
            kernel: &Simulated<Self>,
            at: *mut u8,
            residency: &mut [u8],
        ) -> Result<(), Errno> {
            kernel.mincore(at, residency.len() * PAGE, residency)
        }
    };
}

fn field<K: Sysctl>(kernel: &K, mib: &[i32], at: usize, len: usize) -> i64 {
    let mut value = [0; 2048];
    kernel.sysctl(mib, &mut value).unwrap();
    let mut number = [0; 8];
    number[..len].copy_from_slice(&value[at..at + len]);
    i64::from_le_bytes(number)
}

impl Numbers for sim::FreeBsd {
    const NAME: &'static str = "FreeBSD";
    const FREE: i32 = 5;
    const NO_REPLACE: i32 = FIXED | 0x4000;
    const STACK: i32 = 0x400;
    const USER_END: usize = 1 << 47;

    of_a_unix_with_mincore!();

    fn charged(kernel: &Simulated<Self>) -> i64 {
        const RESERVED: &CStr = c"vm.swap_reserved";
        let mut value = [0; 8];
        assert_eq!(kernel.sysctl_by_name(RESERVED, &mut value), Ok(8));
        i64::from_le_bytes(value)
    }

    fn size(kernel: &Simulated<Self>) -> i64 {
        field(kernel, &[1, 14, 1, kernel.process_id()], 256, 8) / PAGE as i64
    }

    fn resident(kernel: &Simulated<Self>) -> i64 {
        field(kernel, &[1, 14, 1, kernel.process_id()], 264, 8)
    }

    fn fact(kernel: &Simulated<Self>, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        kernel.sysctl_by_name(name, value)
    }

    of_a_bsd!();
}

impl Numbers for sim::OpenBsd {
    const NAME: &'static str = "OpenBSD";
    const FREE: i32 = 6;
    const NO_REPLACE: i32 = FIXED | 0x800;
    const STACK: i32 = 0x4000;
    const USER_END: usize = 0x7f7f_ffff_c000;

    fn mincore(_: &Simulated<Self>, _: *mut u8, _: &mut [u8]) -> Result<(), Errno> {
        panic!("OpenBSD has no mincore")
    }

    fn size(kernel: &Simulated<Self>) -> i64 {
        field(kernel, &[1, 66, 1, kernel.process_id(), 648, 1], 392, 4)
    }

    fn resident(kernel: &Simulated<Self>) -> i64 {
        field(kernel, &[1, 66, 1, kernel.process_id(), 648, 1], 384, 4)
    }

    fn query(
        kernel: &Simulated<Self>,
        address: usize,
        len: usize,
        fixed: bool,
    ) -> Result<usize, Errno> {
        kernel.mquery(address, len, fixed)
    }

    fn seal(kernel: &Simulated<Self>, range: PageRange) -> Result<(), Errno> {
        // SAFETY: the memory is the simulated process's.
        unsafe { kernel.seal(range.start, range.len) }
    }

    of_a_bsd!();
}

impl Numbers for sim::NetBsd {
    const NAME: &'static str = "NetBSD";
    const FREE: i32 = 6;
    const NO_REPLACE: i32 = 0x400;
    const STACK: i32 = 0x2000;
    const USER_END: usize = 0x7f7f_ffff_f000;
    // Linked to a fixed address.
    const PROGRAM: usize = 0x40_0000;

    of_a_unix_with_mincore!();

    fn size(kernel: &Simulated<Self>) -> i64 {
        field(kernel, &[1, 47, 1, kernel.process_id(), 680, 1], 664, 8)
    }

    fn resident(kernel: &Simulated<Self>) -> i64 {
        field(kernel, &[1, 47, 1, kernel.process_id(), 680, 1], 432, 4)
    }

    of_a_bsd!();
}

impl Numbers for sim::DragonFly {
    const NAME: &'static str = "DragonFly";
    const FREE: i32 = 5;
    const NO_REPLACE: i32 = 0x1_0000;
    const STACK: i32 = 0x400;
    const USER_END: usize = 1 << 47;
    // Linked to a fixed address (vm.randomize_mmap is 0).
    const PROGRAM: usize = 0x40_0000;

    of_a_unix_with_mincore!();

    of_a_bsd!();
}

impl Numbers for sim::Darwin {
    const NAME: &'static str = "Darwin";
    const FREE: i32 = 5;
    /// There is none for mmap.
    const NO_REPLACE: i32 = 0;
    const STACK: i32 = 0;
    const USER_END: usize = 0x7fff_fe00_0000;

    of_a_unix_with_mincore!();

    of_a_unix_with_minherit!();
}

impl Numbers for sim::Illumos {
    const NAME: &'static str = "illumos";
    const FREE: i32 = 5;
    /// There is none.
    const NO_REPLACE: i32 = 0;
    const STACK: i32 = 0;
    // Below the hole in the addresses of amd64.
    const USER_END: usize = 1 << 47;

    fn flags(flags: i32) -> i32 {
        const MAP_ANON: i32 = 0x100;
        match flags & ANON & !2 {
            0 => flags,
            anonymous => flags & !anonymous | MAP_ANON,
        }
    }

    of_a_unix_with_mincore!();

    fn inherit(_: &Simulated<Self>, _: PageRange, _: i32) -> Result<(), Errno> {
        panic!("illumos has no minherit")
    }
}
