use crate::Errno;

/// What backs the address space of a simulated process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A block of the heap. Nothing faults: a stray write is found, with its address, by the
    /// next call that concerns the page or when the process ends, and panics.
    Heap,
    /// Address space of the running system, with real protection: a stray access faults. Size
    /// costs next to nothing.
    Real,
    /// Addresses alone, for what is too large for any machine or lies where nothing of this process
    /// can lie. Nobody may touch them.
    Addresses {
        /// The first.
        start: usize,
    },
}

/// When the pages of a lazy giving back lose their contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LazilyFreed {
    /// Each page at once, at some later call while its bytes are what they were, or never, as
    /// the seed decides. A kernel sees writes in the page table; here bytes are compared, so a
    /// program that writes to a page exactly what it held may lose that write. Where tests cannot
    /// write distinct values, the other two are sound.
    Adversarial,
    /// At once.
    Dropped,
    /// Not before [`pressure`](super::Simulated::pressure).
    Kept,
}

/// How a kernel charges promised memory: `vm.overcommit_memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overcommit {
    /// 0: one call may promise at most what the machine has.
    Heuristic {
        /// Memory and swap in bytes.
        memory: u64,
    },
    /// 1: every promise is given.
    Always,
    /// 2: all promises together stay below a limit.
    Never {
        /// The limit in bytes.
        limit: u64,
    },
}

/// How a simulated kernel is built and what it allows. What a system has not, its kernel does not
/// look at: `RLIMIT_DATA` is a limit on Linux, OpenBSD and Darwin, `RLIMIT_AS` on all but OpenBSD
/// and Windows.
///
/// ```
/// use sysmem::sim::{Settings, Simulated};
///
/// let old = Simulated::new(Settings { seed: 7, version: (4, 4), ..Settings::heap(1 << 20) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Decides what a kernel is free to decide: where mappings lie, when lazily freed pages go.
    pub seed: u64,
    /// What backs the address space.
    pub backing: Backing,
    /// The length of the address space in bytes, a multiple of `alignment`.
    pub space: usize,
    /// What the address space begins at a multiple of.
    pub alignment: usize,
    /// The size of a page in bytes, from 4 KiB to 64 KiB.
    pub page_size: usize,
    /// The version of a Linux, or of a Windows: (10, 1803). Every feature is there from the version
    /// on that has it.
    pub version: (u32, u32),
    /// `RLIMIT_AS` in bytes.
    pub address_space_limit: u64,
    /// `RLIMIT_MEMLOCK` in bytes, which Linux alone does not look at; the least working set of
    /// Windows.
    pub locked_limit: u64,
    /// `RLIMIT_SWAP` of FreeBSD in bytes, enforced (`vm.overcommit` bit 1) where it is one.
    pub swap_limit: u64,
    /// `RLIMIT_DATA` in bytes.
    pub data_limit: u64,
    /// `vm.max_map_count` of Linux, `vm.max_proc_mmap` of DragonFly. The process has two mappings that
    /// are not the program's: what lies below and above its address space.
    pub max_map_count: usize,
    /// How promises of memory are charged. FreeBSD enforces its swap (`vm.overcommit` bit 0) where
    /// it is `Never`; the other BSDs and Darwin promise everything. illumos and Windows never
    /// promise what they do not have: the number says how much that is.
    pub overcommit: Overcommit,
    /// Lock every new mapping, as after `mlockall(MCL_FUTURE)`.
    pub lock_new_mappings: bool,
    /// The size of a huge page; `None` for a kernel without transparent huge pages.
    pub huge_page_size: Option<usize>,
    /// A kernel built with `CONFIG_ANON_VMA_NAME`.
    pub mapping_names: bool,
    /// Whether /proc and /sys are mounted.
    pub proc_mounted: bool,
    /// What a sandbox makes of `process_madvise`.
    pub process_madvise_refused: Option<Errno>,
    /// `process_madvise` stops after some of its ranges, as if interrupted.
    pub short_counts: bool,
    /// `vm.imply_prot_max` of FreeBSD: memory never allows more than it was mapped with, unless
    /// that was nothing.
    pub imply_prot_max: bool,
    /// `kern.elf64.allow_wx` of FreeBSD: whether a page may be writable and executable. A kernel
    /// that allows it is not simulated as far as that: the process panics that asks for such a page.
    pub allow_wx: bool,
    /// PaX MPROTECT of NetBSD: memory never allows more than it was mapped with or to be.
    pub pax_mprotect: bool,
    /// Whether anonymous memory may become executable that was not mapped so: not under SELinux
    /// without `execmem`, nor in the hardened runtime of Darwin without an entitlement.
    pub executable_anonymous: bool,
    /// Whether memory objects may be mapped executable: SELinux asks for `execute` on tmpfs.
    pub executable_objects: bool,
    /// Whether a program may map memory for a JIT on Darwin.
    pub allow_jit: bool,
    /// `kern.elf64.aslr.enable` of FreeBSD: a hint is where to begin, not where to be.
    pub aslr: bool,
    /// Whether the user of the process has been given what large pages of Windows take
    /// (`SeLockMemoryPrivilege`), which the process has yet to switch on.
    pub lock_memory_privilege: bool,
    /// When lazily freed pages lose their contents.
    pub lazily_freed: LazilyFreed,
    /// New mappings leave small gaps to their neighbours at times, instead of joining them.
    pub scattered: bool,
    /// A rival thread maps memory of its own wherever a failed replacement left a hole; on Windows
    /// at times where something was released.
    pub rival: bool,
    /// Time passes only when [`advance`](super::Simulated::advance) says so.
    pub clock_stands: bool,
}

impl Settings {
    /// A recent kernel without limits, whose process has `space` bytes of the heap for address
    /// space.
    pub const fn heap(space: usize) -> Settings {
        Settings {
            seed: 0,
            backing: Backing::Heap,
            space,
            alignment: 64 << 10,
            page_size: 4 << 10,
            version: (6, 18),
            address_space_limit: u64::MAX,
            locked_limit: u64::MAX,
            swap_limit: u64::MAX,
            data_limit: u64::MAX,
            max_map_count: 65_530,
            overcommit: Overcommit::Heuristic { memory: 1 << 40 },
            lock_new_mappings: false,
            huge_page_size: Some(2 << 20),
            mapping_names: true,
            proc_mounted: true,
            process_madvise_refused: None,
            short_counts: false,
            imply_prot_max: true,
            allow_wx: true,
            pax_mprotect: true,
            executable_anonymous: true,
            executable_objects: true,
            allow_jit: true,
            aslr: true,
            lock_memory_privilege: false,
            lazily_freed: LazilyFreed::Adversarial,
            scattered: true,
            rival: false,
            clock_stands: false,
        }
    }

    /// The same with `space` bytes of the running system's address space.
    pub const fn real(space: usize) -> Settings {
        Settings { backing: Backing::Real, ..Settings::heap(space) }
    }

    /// The same with all addresses from `start` up to `end`, and no memory.
    pub const fn addresses(start: usize, end: usize) -> Settings {
        let backing = Backing::Addresses { start };
        Settings { backing, alignment: 4 << 10, ..Settings::heap(end - start) }
    }
}
