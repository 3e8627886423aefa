//! The layer between an operating system's virtual memory and everything that wants memory.
//!
//! Address space moves between four states:
//!
//! ```text
//! None ──reserve──▶ Reserved ──map──▶ Prepared ──used──▶ Ready
//!   ▲                  ▲                 ▲                 │
//!   │                  └──────fault──────┼─────────────────┤
//!   │                                    └─────unused──────┤
//!   └──────────────── free / unreserve ────────────────────┘
//! None ─────────────────────── alloc ──────────────────▶ Ready
//! ```
//!
//! - **None**: not ours.
//! - **Reserved**: ours; an access faults; costs no memory.
//! - **Prepared**: ours; contents forfeit; not to be touched until `used`.
//! - **Ready**: accessible with the protection it was mapped with.
//!
//! Most callers want [`Reservation`], which knows the state of each of its pages, refuses what the
//! states forbid, and keeps the books of an [`Account`]. Below it is the trait [`Os`]: the bare
//! operations and what an operating system promises of each ([`UnusedContract`]). Below that is the
//! table of system calls ([`calls`]), which the running kernel (`native`) and the simulated ones
//! (`sim`, behind the feature of that name) both answer.
//!
//! The crate is `no_std`, has no allocator below it and needs none.
//!
//! ```
//! use sysmem::{Account, GiveBack, Protection, Reservation, ReserveOptions};
//!
//! static BUFFERS: Account = Account::new("buffers");
//!
//! let page = sysmem::page_size();
//! let mut pool = Reservation::reserve(ReserveOptions::new(1 << 30), &BUFFERS)?;
//! pool.map(0, 16 * page, Protection::ReadWrite)?;
//! pool.used(0, 16 * page)?;
//! // SAFETY: the first sixteen pages were just made Ready, and nothing else points into them.
//! unsafe { pool.as_mut_ptr().write(42) };
//! assert_eq!(BUFFERS.figures().ready, 16 * page as u64);
//! pool.unused(0, 16 * page, GiveBack::Eager)?;
//! # Ok::<(), sysmem::Error>(())
//! ```
#![no_std]

#[cfg(any(test, feature = "sim"))]
extern crate std;

mod account;
pub mod calls;
mod error;
#[cfg(feature = "call-sites")]
mod history;
pub mod huge;
mod lock;
pub mod native;
pub mod os;
mod protection;
mod registry;
mod reservation;
#[cfg(feature = "sim")]
pub mod sim;
mod state_map;
pub mod usage;

pub use account::{Account, AccountFigures, accounts};
pub use error::{Errno, Error, ErrorKind, Limit, Operation};
pub use lock::{Lock, LockGuard};
pub use native::{Native, page_size};
pub use os::capabilities::{
    CodeMemory, GuardMechanism, Guards, MemoryObject, MemoryObjects, Sealing, ThreadBarrier,
};
pub use os::{
    Contents, GiveBack, Inheritance, Os, PageRange, Placement, Policy, ReserveOptions,
    ResidentFalls, Source, UnusedContract,
};
pub use protection::Protection;
pub use registry::{Change, Registered, Registry};
pub use reservation::Reservation;
pub use state_map::State;
