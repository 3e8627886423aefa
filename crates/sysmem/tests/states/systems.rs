//! What the model must know of each system.

use sysmem::os::{Os, darwin, dragonfly, freebsd, illumos, linux, netbsd, openbsd, windows};
use sysmem::sim::{self, Child, Faulty, Overcommit, Settings, Simulated};
use sysmem::{Errno, GiveBack};

pub trait System: sim::System {
    /// The backend on the simulated kernel.
    type Os: Os + Clone + 'static;

    /// Kernels with and without each feature that the backend looks for.
    const VERSIONS: &'static [(u32, u32)] = &[(1, 0)];

    /// How many cases a property is tried on.
    const CASES: u32 = 200;

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os;

    /// Forks a child, if the kernel does.
    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>>;

    /// Whether promises of memory are refused, and the backend is to keep Reserved pages out of
    /// them.
    fn is_strict(settings: &Settings) -> bool {
        matches!(settings.overcommit, Overcommit::Never { .. })
    }

    /// What the kernel answers when wired pages are given back in a way that it does not know for
    /// them, and the backend passes on.
    fn refuses_wired(_version: (u32, u32)) -> fn(GiveBack) -> Option<Errno> {
        |_| None
    }
}

impl System for sim::Linux {
    type Os = linux::Linux<Faulty<Simulated>>;
    const VERSIONS: &'static [(u32, u32)] =
        &[(4, 4), (4, 9), (4, 18), (5, 12), (6, 5), (6, 12), (6, 18)];
    const CASES: u32 = 400;

    fn os(kernel: Faulty<Simulated>) -> Self::Os {
        linux::Linux::new(kernel)
    }

    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>> {
        kernel.fork().ok()
    }

    fn is_strict(settings: &Settings) -> bool {
        matches!(settings.overcommit, Overcommit::Never { .. }) && settings.proc_mounted
    }

    fn refuses_wired(version: (u32, u32)) -> fn(GiveBack) -> Option<Errno> {
        // MADV_DONTNEED_LOCKED takes them.
        if version >= (5, 18) { |_| None } else { |_| Some(Errno(22)) }
    }
}

impl System for sim::FreeBsd {
    type Os = freebsd::FreeBsd<Faulty<Simulated<Self>>>;

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os {
        freebsd::FreeBsd::new(kernel)
    }

    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>> {
        kernel.fork().ok()
    }
}

impl System for sim::NetBsd {
    type Os = netbsd::NetBsd<Faulty<Simulated<Self>>>;

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os {
        netbsd::NetBsd::new(kernel)
    }

    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>> {
        kernel.fork().ok()
    }

    fn is_strict(_settings: &Settings) -> bool {
        false
    }

    fn refuses_wired(_version: (u32, u32)) -> fn(GiveBack) -> Option<Errno> {
        // MADV_FREE answers EBUSY.
        |how| (how == GiveBack::Lazy).then_some(Errno(16))
    }
}

impl System for sim::OpenBsd {
    type Os = openbsd::OpenBsd<Faulty<Simulated<Self>>>;

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os {
        openbsd::OpenBsd::new(kernel)
    }

    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>> {
        kernel.fork().ok()
    }

    fn is_strict(_settings: &Settings) -> bool {
        false
    }
}

impl System for sim::DragonFly {
    type Os = dragonfly::DragonFly<Faulty<Simulated<Self>>>;

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os {
        dragonfly::DragonFly::new(kernel)
    }

    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>> {
        kernel.fork().ok()
    }

    fn is_strict(_settings: &Settings) -> bool {
        false
    }
}

impl System for sim::Illumos {
    type Os = illumos::Illumos<Faulty<Simulated<Self>>>;

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os {
        illumos::Illumos::new(kernel)
    }

    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>> {
        kernel.fork().ok()
    }

    fn refuses_wired(_version: (u32, u32)) -> fn(GiveBack) -> Option<Errno> {
        // MADV_FREE answers EBUSY.
        |how| (how == GiveBack::Lazy).then_some(Errno(16))
    }
}

impl System for sim::Darwin {
    type Os = darwin::Darwin<Faulty<Simulated<Self>>>;

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os {
        darwin::Darwin::new(kernel)
    }

    fn fork(kernel: &Simulated<Self>) -> Option<Child<Self>> {
        kernel.fork().ok()
    }

    fn is_strict(_settings: &Settings) -> bool {
        false
    }
}

impl System for sim::Windows {
    type Os = windows::Windows<Faulty<Simulated<Self>>>;
    // Without and with VirtualAlloc2.
    const VERSIONS: &'static [(u32, u32)] = &[(6, 1), (10, 1803)];

    fn os(kernel: Faulty<Simulated<Self>>) -> Self::Os {
        windows::Windows::new(kernel)
    }

    fn fork(_kernel: &Simulated<Self>) -> Option<Child<Self>> {
        // There is no fork.
        None
    }
}
