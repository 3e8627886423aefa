//! Tools for those who write runtimes, over [`sysmem`]:
//!
//! - [`CodeRegion`]: memory for machine code, never writable and executable at one address.
//! - [`VmVec`]: a vector that never moves its elements.
//! - [`Guard`]: pages that fault, by the cheapest means the kernel has.
//! - [`FaultReport`], [`FaultHandler`]: what an address that faulted was to us.
//! - [`fault_all`]: a simulated crash.
//! - [`Sealed`]: memory that nobody can change until the process ends.
//! - [`Checked`]: a system on which memory faults before `used` and after `unused`.
//!
//! The crate is `no_std` and needs no allocator.
#![no_std]

#[cfg(test)]
extern crate std;

mod checked;
#[cfg(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64"))]
mod code;
mod crash;
mod fault;
mod guard;
mod seal;
mod vec;

pub use checked::Checked;
#[cfg(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64"))]
pub use code::{CodeError, CodeMechanism, CodeOptions, CodeRegion, Refusal};
pub use crash::{FaultAll, FaultAllOutcome, fault_all};
#[cfg(unix)]
pub use fault::AlternateStack;
pub use fault::{Access, FaultReport};
#[cfg(any(unix, windows))]
pub use fault::{FaultHandler, InstallError, write_to_stderr};
pub use guard::Guard;
pub use seal::Sealed;
pub use vec::{Drain, IntoIter, PushError, VmVec};
