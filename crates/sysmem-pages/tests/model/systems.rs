//! The systems that the heap may stand on, on their simulated kernels.

use sysmem::os::{Os, darwin, dragonfly, freebsd, illumos, linux, netbsd, openbsd, windows};
use sysmem::sim::{self, Call, Faulty, Simulated};
use sysmem::{Errno, calls};

use super::ENOMEM;

/// A simulated kernel whose calls can be failed.
pub type Kernel<S> = Faulty<Simulated<S>>;

/// A system that the heap may stand on.
pub trait System: sim::System {
    type Os: Os + Clone;

    fn os(kernel: Kernel<Self>) -> Self::Os;

    /// What the kernel answers to a call when it is out of memory, `None` for a call that is not to
    /// fail.
    fn exhausted(call: &Call) -> Option<Errno> {
        const KERN_NO_SPACE: Errno = Errno(3);
        const ERROR_NOT_ENOUGH_MEMORY: Errno = Errno(8);
        const MEM_RELEASE: u32 = 0x8000;
        match call {
            Call::MachVmMap { .. } => Some(KERN_NO_SPACE),
            Call::VirtualFree { kind: MEM_RELEASE, .. } => None,
            _ if Self::KERNEL == calls::Kernel::Windows => Some(ERROR_NOT_ENOUGH_MEMORY),
            _ => Some(ENOMEM),
        }
    }
}

macro_rules! systems {
    ($($name:ident: $backend:ty;)*) => {$(
        impl System for sim::$name {
            type Os = $backend;

            fn os(kernel: Kernel<sim::$name>) -> $backend {
                <$backend>::new(kernel)
            }
        }
    )*};
}

systems! {
    Linux: linux::Linux<Kernel<sim::Linux>>;
    FreeBsd: freebsd::FreeBsd<Kernel<sim::FreeBsd>>;
    NetBsd: netbsd::NetBsd<Kernel<sim::NetBsd>>;
    OpenBsd: openbsd::OpenBsd<Kernel<sim::OpenBsd>>;
    DragonFly: dragonfly::DragonFly<Kernel<sim::DragonFly>>;
    Illumos: illumos::Illumos<Kernel<sim::Illumos>>;
    Darwin: darwin::Darwin<Kernel<sim::Darwin>>;
    Windows: windows::Windows<Kernel<sim::Windows>>;
}
