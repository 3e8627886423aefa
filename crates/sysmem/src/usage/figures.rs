//! The figures: what they are, where they come from, in which unit.

use core::time::Duration;

use crate::huge::Mode;

/// A limit that does not limit: what a figure that is a limit holds where there is none.
pub const NO_LIMIT: u64 = u64::MAX;

/// What a process uses. Bytes, where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// The size of the address space. Linux: `VmSize` of /proc/PID/status. FreeBSD: `ki_size`
    /// (without `MAP_GUARD`). NetBSD: `p_vm_vsize`. DragonFly: `kp_vm_map_size`. illumos:
    /// `pr_size`. Darwin: `pti_virtual_size`. OpenBSD and Windows have none.
    pub virtual_size: Option<u64>,
    /// The largest it ever was. Linux: `VmPeak`.
    pub peak_virtual_size: Option<u64>,
    /// In physical memory. Linux: `VmRSS`, which may be some MiB old on machines with many
    /// processors (proc_pid_status(5)); [`PageFigures::resident`] is exact. FreeBSD: `ki_rssize`.
    /// NetBSD, OpenBSD: `p_vm_rssize`. DragonFly: `kp_vm_rssize`. illumos: `pr_rssize`. Darwin:
    /// `pti_resident_size`. Windows: `WorkingSetSize`, which the system trims while the pages stay
    /// in memory.
    #[doc(alias = "rss")]
    pub resident: Option<u64>,
    /// The most that ever was in physical memory, since the program was executed. Linux: `VmHWM`.
    /// FreeBSD, OpenBSD, DragonFly: `ru_maxrss` (KiB there), which the clock samples on FreeBSD and
    /// DragonFly. Darwin: `resident_size_peak`, of the calling process. Windows:
    /// `PeakWorkingSetSize`. NetBSD's and illumos's `ru_maxrss` is always 0: they have none.
    pub peak_resident: Option<u64>,
    /// Resident and of no file. Linux: `RssAnon`, since 4.5. Darwin: `internal`, of the calling
    /// process.
    pub resident_anonymous: Option<u64>,
    /// Resident pages of files. Linux: `RssFile`, since 4.5. Darwin: `external`, of the calling
    /// process.
    pub resident_files: Option<u64>,
    /// Resident shared memory. Linux: `RssShmem`, since 4.5.
    pub resident_shared: Option<u64>,
    /// In swap. Linux: `VmSwap`, without shared memory. Darwin: `compressed`, of the calling
    /// process: in the compressor or in a swap file.
    pub swapped: Option<u64>,
    /// Locked into memory (mlock(2)). Linux: `VmLck`. Darwin: `ri_wired_size`.
    pub locked: Option<u64>,
    /// Private writable mappings, which `RLIMIT_DATA` limits. Linux: `VmData`. OpenBSD:
    /// `p_vm_dsize`, which counts all that is charged against the limit. FreeBSD, NetBSD,
    /// DragonFly: `ki_dsize`, `p_vm_dsize`, `kp_vm_dsize`: the program's data and what brk(2) added.
    pub data: Option<u64>,
    /// The first thread's stack. Linux: `VmStk`. FreeBSD: `ki_ssize`. NetBSD, OpenBSD:
    /// `p_vm_ssize`. DragonFly: `kp_vm_ssize`. illumos: `pr_stksize`, for those who may look.
    pub stack: Option<u64>,
    /// Page tables, which come on top of the resident pages. Linux: `VmPTE`.
    pub page_tables: Option<u64>,
    /// What Darwin holds a process to account for: `ri_phys_footprint`. `None` elsewhere.
    pub phys_footprint: Option<u64>,
    /// The most that ever was. Darwin: `ri_lifetime_max_phys_footprint`. `None` elsewhere.
    pub peak_phys_footprint: Option<u64>,
    /// Memory promised to the process. Windows: `PrivateUsage`. `None` on Linux, which keeps that
    /// sum for the machine only: [`MachineUsage::committed`].
    pub commit_charge: Option<u64>,
    /// The most that ever was promised to it. Windows: `PeakPagefileUsage`.
    pub peak_commit_charge: Option<u64>,
    /// Processor time in user mode. Linux: getrusage(2) for the calling process, `utime` of
    /// /proc/PID/stat for another, in steps of 10 ms. FreeBSD, DragonFly: `ru_utime`. NetBSD,
    /// OpenBSD: `p_uutime_sec`, `p_uutime_usec`. illumos: `pr_utime`. Darwin: getrusage(2), for
    /// another `ri_user_time` (in ticks of Mach's clock). Windows: GetProcessTimes, in units of
    /// 100 ns.
    pub user_time: Option<Duration>,
    /// Processor time in the kernel, from the same sources.
    pub system_time: Option<Duration>,
    /// Page faults that needed no input or output. Linux: getrusage(2), or `minflt`. BSDs:
    /// `ru_minflt`. illumos: `pr_minf`. Darwin: getrusage(2), of the calling process.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for input or output. Linux: getrusage(2), or `majflt`. BSDs:
    /// `ru_majflt`. illumos: `pr_majf`. Darwin: getrusage(2), of the calling process.
    pub major_faults: Option<u64>,
    /// Page faults of both kinds, where the system does not tell them apart. Windows:
    /// `PageFaultCount`. Darwin: `pti_faults`, of another process.
    pub page_faults: Option<u64>,
    /// The most address space it may have, [`NO_LIMIT`] for any. Linux: /proc/PID/limits. FreeBSD:
    /// kern.proc.rlimit. NetBSD: proc.PID.rlimit. DragonFly, illumos: getrlimit(2), of the calling
    /// process.
    #[doc(alias = "RLIMIT_AS")]
    pub virtual_size_limit: Option<u64>,
    /// The most [`data`](ProcessUsage::data) it may have, [`NO_LIMIT`] for any; from the same
    /// sources, and getrlimit(2) on OpenBSD.
    #[doc(alias = "RLIMIT_DATA")]
    pub data_limit: Option<u64>,
    /// The most it may lock, [`NO_LIMIT`] for any; from the same sources.
    #[doc(alias = "RLIMIT_MEMLOCK")]
    pub locked_limit: Option<u64>,
    /// How many mappings it may have. Linux: /proc/sys/vm/max_map_count. DragonFly:
    /// vm.max_proc_mmap.
    pub mappings_limit: Option<u64>,
    /// How many mappings it has. Linux: the lines of /proc/PID/maps, with
    /// [`Detail::Pages`](super::Detail::Pages) only. Darwin: `region_count`, of the calling process.
    /// Elsewhere [`mappings`](super::mappings) tells.
    pub mappings: Option<u64>,
    /// What was found page by page; with [`Detail::Pages`](super::Detail::Pages) only. Linux:
    /// /proc/PID/smaps_rollup, since 4.14, for those who may trace the process.
    pub pages: PageFigures,
}

/// What the system finds by looking at pages, of a mapping or of a process. On Linux each is the
/// field of /proc/PID/smaps named (proc_pid_smaps(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFigures {
    /// In physical memory: `Rss`. Without [`reserved_huge`](PageFigures::reserved_huge) pages.
    /// FreeBSD: `kve_resident`. DragonFly: the third column of /proc/PID/map. illumos: `pr_rss`.
    /// Darwin: `pri_pages_resident`. Windows: the pages that `QueryWorkingSetEx` calls valid. NetBSD
    /// and OpenBSD do not tell it of mappings.
    pub resident: Option<u64>,
    /// Resident, each page divided by the number of processes that share it: `Pss`. DragonFly:
    /// `kp_vm_prssize`, of a process.
    pub proportional: Option<u64>,
    /// Resident and mapped by no other process: `Private_Clean` and `Private_Dirty`. FreeBSD:
    /// `kve_private_resident`. DragonFly: the fourth column. Darwin: `pri_private_pages_resident`.
    /// Windows: valid and not shared.
    pub private: Option<u64>,
    /// Resident and of no file: `Anonymous`. illumos: `pr_anon`.
    pub anonymous: Option<u64>,
    /// Given back lazily and not taken yet, counted as resident. `MADV_FREE` on Linux: `LazyFree`,
    /// which the kernel counts in batches of 31 pages a processor. Darwin: `reusable`
    /// (`MADV_FREE_REUSABLE`), of the calling process. FreeBSD has `MADV_FREE` and does not tell.
    pub lazily_freed: Option<u64>,
    /// Mapped by transparent huge pages: `AnonHugePages`, `ShmemPmdMapped`, `FilePmdMapped`.
    pub huge: Option<u64>,
    /// In huge pages set aside by the administrator (hugetlb): `Shared_Hugetlb`,
    /// `Private_Hugetlb`.
    pub reserved_huge: Option<u64>,
    /// In swap: `Swap`. Darwin: `pri_pages_swapped_out`.
    pub swapped: Option<u64>,
    /// Locked into memory: `Locked`. illumos: `pr_locked`.
    pub locked: Option<u64>,
}

impl PageFigures {
    /// Resident, without what was given back lazily and not been taken yet.
    pub fn resident_in_use(&self) -> Option<u64> {
        self.resident?.checked_sub(self.lazily_freed?)
    }

    /// How much of the anonymous memory is in huge pages, in hundredths of a percent.
    pub fn huge_cover(&self) -> Option<u64> {
        let (huge, anonymous) = (u128::from(self.huge?), u128::from(self.anonymous?));
        (huge * 10_000).checked_div(anonymous).map(|share| share.min(10_000) as u64)
    }
}

/// What the machine has and uses. Bytes, where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineUsage {
    /// The size of a page: sysconf(3), Windows: `GetSystemInfo`.
    pub page_size: Option<u64>,
    /// Physical memory. Linux: `MemTotal` of /proc/meminfo. FreeBSD, DragonFly: hw.physmem. NetBSD,
    /// OpenBSD: `HW_PHYSMEM64`. Darwin: hw.memsize. illumos: `_SC_PHYS_PAGES`. Windows:
    /// `PhysicalTotal` of `GetPerformanceInfo`.
    pub total: Option<u64>,
    /// Of that, used for nothing. Linux: `MemFree`. FreeBSD, DragonFly: vm.stats.vm.v_free_count.
    /// NetBSD, OpenBSD: `free` of `VM_UVMEXP2`, `VM_UVMEXP`. Darwin: `free_count` of
    /// `host_statistics64`. illumos: `_SC_AVPHYS_PAGES`. Windows tells only what is available.
    pub free: Option<u64>,
    /// What programs could get without swapping. Linux: `MemAvailable`, since 3.14. Windows:
    /// `PhysicalAvailable`. The others keep no such figure.
    pub available: Option<u64>,
    /// Swap space. Linux: `SwapTotal`. FreeBSD: vm.swap_total. DragonFly: vm.swap_size. NetBSD,
    /// OpenBSD: `swpages`. Darwin: vm.swapusage, whose files grow as they are needed. Windows: all
    /// page files.
    pub swap_total: Option<u64>,
    /// Of that, unused. Linux: `SwapFree`. FreeBSD: vm.swap_info. The others: from what is used.
    pub swap_free: Option<u64>,
    /// Memory promised to programs. Linux: `Committed_AS`. FreeBSD: vm.swap_reserved. illumos:
    /// `ani_resv` of swapctl(2). Windows: `CommitTotal`.
    pub committed: Option<u64>,
    /// The most that may be promised under [`Overcommit::Never`]. Linux: `CommitLimit`. illumos:
    /// `ani_max`, swap and memory together. Windows: `CommitLimit`.
    pub commit_limit: Option<u64>,
    /// How the system promises memory. Linux: /proc/sys/vm/overcommit_memory. FreeBSD: bit 0 of
    /// vm.overcommit (tuning(7)). illumos, Windows: [`Overcommit::Never`], always.
    pub overcommit: Option<Overcommit>,
    /// Page tables. Linux: `PageTables`.
    pub page_tables: Option<u64>,
    /// Memory in which other pages are kept compressed. Darwin: `compressor_page_count`. Linux:
    /// `Zswap`, since 5.19.
    pub compressor: Option<u64>,
    /// The size of a huge page: [`huge::query`](crate::huge::query). Windows:
    /// `GetLargePageMinimum`.
    pub huge_page_size: Option<u64>,
    /// Whether the system builds them out of pages: [`huge::query`](crate::huge::query).
    pub huge_pages: Option<Mode>,
    /// Anonymous memory in huge pages. Linux: `AnonHugePages`.
    pub anonymous_huge: Option<u64>,
    /// The usual size of huge pages that the administrator set aside. Linux: `Hugepagesize`.
    pub reserved_huge_page_size: Option<u64>,
    /// Memory set aside for huge pages of all sizes. Linux: `Hugetlb`, since 4.18.
    pub reserved_huge: Option<u64>,
    /// Of those of the usual size, unused. Linux: `HugePages_Free`.
    pub reserved_huge_free: Option<u64>,
    /// How long work has waited for memory. Linux: /proc/pressure/memory, since 4.20, where it is
    /// not turned off.
    pub pressure: Option<Pressure>,
    /// Whether the system says that memory is short. Darwin: kern.memorystatus_vm_pressure_level
    /// above 1. Windows: the low memory notification.
    pub memory_is_short: Option<bool>,
}

/// How a system promises memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overcommit {
    /// What is obviously too much is refused.
    Heuristic,
    /// Everything is promised.
    Always,
    /// No more is promised than there is.
    Never,
}

/// How long work has waited for memory (PSI).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks that were not idle waited.
    pub full: Stall,
}

/// A share of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// The share of the last ten seconds, in hundredths of a percent.
    pub ten_seconds: u32,
    /// The share of the last minute, in hundredths of a percent.
    pub minute: u32,
    /// The share of the last five minutes, in hundredths of a percent.
    pub five_minutes: u32,
    /// All of it since the start.
    pub total: Duration,
}

/// What the control group that a process is charged to uses, and what it may use: on Linux its
/// cgroup, on Windows its job. A group is also held to the limits of those around it. Other systems
/// have no such groups, or (jails, zones) tell nothing of their memory without privileges: all is
/// `None` there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlGroup {
    /// Memory charged, caches of files included. Linux: memory.current, or in version 1
    /// memory.usage_in_bytes.
    pub used: Option<u64>,
    /// The most that ever was charged. Linux: memory.peak, since 5.19, or
    /// memory.max_usage_in_bytes. Windows: `PeakJobMemoryUsed`, the commit charge of all its
    /// processes.
    pub peak: Option<u64>,
    /// The least of the limits of the group and those around it, [`NO_LIMIT`] for none. Linux:
    /// memory.max, or memory.limit_in_bytes. Windows: `JobMemoryLimit`.
    pub limit: Option<u64>,
    /// The most that one process of the group may be charged, [`NO_LIMIT`] for any. Windows:
    /// `ProcessMemoryLimit`.
    pub process_limit: Option<u64>,
    /// The least size from which the group is slowed down and reclaimed, [`NO_LIMIT`] for none.
    /// Linux: memory.high; `None` in version 1.
    pub slowed_from: Option<u64>,
    /// Swap charged. Linux: memory.swap.current; `None` in version 1.
    pub swap_used: Option<u64>,
    /// The least of the limits on swap, [`NO_LIMIT`] for none. Linux: memory.swap.max; `None` in
    /// version 1.
    pub swap_limit: Option<u64>,
    /// How long the group's work has waited for memory. Linux: memory.pressure; `None` in
    /// version 1.
    pub pressure: Option<Pressure>,
}
