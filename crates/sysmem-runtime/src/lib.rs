//! Tools for those who write runtimes, over [`sysmem`]:
//!
//! - [`VmVec`]: a vector that never moves its elements.
//! - [`Guard`]: pages that fault, by the cheapest means the kernel has.
//! - [`FaultReport`], [`FaultHandler`]: what an address that faulted was to us.
//! - [`Checked`]: a system on which memory faults before `used` and after `unused`.
//!
//! The crate is `no_std` and needs no allocator.
#![no_std]

#[cfg(test)]
extern crate std;

mod checked;
mod fault;
mod guard;
mod vec;

pub use checked::Checked;
pub use fault::{Access, FaultReport};
#[cfg(unix)]
pub use fault::{AlternateStack, FaultHandler, InstallError, write_to_stderr};
pub use guard::Guard;
pub use vec::{Drain, IntoIter, PushError, VmVec};
