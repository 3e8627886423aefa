//! Tools for those who write runtimes, over [`sysmem`]:
//!
//! - [`Guard`]: pages that fault, by the cheapest means the kernel has.
//! - [`VmVec`]: a vector that never moves its elements.
//!
//! The crate is `no_std` and needs no allocator.
#![no_std]

#[cfg(test)]
extern crate std;

mod guard;
mod vec;

pub use guard::Guard;
pub use vec::{Drain, IntoIter, PushError, VmVec};
