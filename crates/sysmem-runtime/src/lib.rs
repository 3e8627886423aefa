//! Tools for those who write runtimes, over [`sysmem`]:
//!
//! - [`VmVec`]: a vector that never moves its elements.
//!
//! The crate is `no_std` and needs no allocator.
#![no_std]

#[cfg(test)]
extern crate std;

mod vec;

pub use vec::{Drain, IntoIter, PushError, VmVec};
