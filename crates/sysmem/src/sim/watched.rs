//! Tables of calls that are watched on their way to the kernel: recorded, or made to fail.
//! They work over every table, the running kernel's too.

mod calls;

use std::boxed::Box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use super::random::Random;
use crate::Errno;
use crate::calls::Findings;

pub use calls::Call;

/// Looks at calls as they pass.
pub trait Watch: Sync {
    /// A call is about to go to the kernel; an error goes back to the caller in its stead.
    fn before(&self, call: &Call) -> Result<(), Errno>;

    /// A call came back with this number, an address or a count, or with an error.
    fn after(&self, call: Call, result: Result<usize, Errno>);

    /// What has been found out by calls seen through this watch, where that may differ from what
    /// the kernel below would answer.
    fn findings(&self) -> Option<&Findings>;
}

/// A table of calls that is watched.
#[derive(Clone, Debug)]
pub struct Watched<K, W> {
    kernel: K,
    watch: W,
}

impl<K, W> Watched<K, W> {
    /// The table below.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }
}

impl<K, W: Watch> Watched<K, W> {
    fn pass<R>(
        &self,
        call: Call,
        run: impl FnOnce() -> Result<R, Errno>,
        number: impl FnOnce(&R) -> usize,
    ) -> Result<R, Errno> {
        let result = self.watch.before(&call).and_then(|()| run());
        self.watch.after(call, result.as_ref().map(number).map_err(|&errno| errno));
        result
    }
}

/// A table of calls that keeps a record of every call that may fail.
pub type Traced<K> = Watched<K, Trace>;

/// A call that came back, and the number or error it came back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub call: Call,
    /// An address or a count, or the error.
    pub result: Result<usize, Errno>,
}

/// The record of a [`Traced`] table. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Vec<Record>>>);

impl Trace {
    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Trace {
    fn before(&self, _: &Call) -> Result<(), Errno> {
        Ok(())
    }

    fn after(&self, call: Call, result: Result<usize, Errno>) {
        self.lock().push(Record { call, result });
    }

    fn findings(&self) -> Option<&Findings> {
        None
    }
}

impl<K> Traced<K> {
    /// Begins a record of the calls to `kernel`.
    pub fn new(kernel: K) -> Traced<K> {
        Watched { kernel, watch: Trace::default() }
    }

    /// The calls so far, or since the last [`clear`](Traced::clear).
    pub fn records(&self) -> Vec<Record> {
        self.watch.lock().clone()
    }

    /// How many of them `which` says yes to.
    pub fn count(&self, which: impl Fn(&Call) -> bool) -> usize {
        self.watch.lock().iter().filter(|record| which(&record.call)).count()
    }

    /// Begins a new record.
    pub fn clear(&self) {
        self.watch.lock().clear();
    }
}

/// A table of calls that fail when told to. What a program finds out about the kernel is kept
/// apart from what it finds out without the failures.
pub type Faulty<K> = Watched<K, Faults>;

/// The failures of a [`Faulty`] table. Clones share them.
#[derive(Clone, Default)]
pub struct Faults(Arc<FaultsInner>);

#[derive(Default)]
struct FaultsInner {
    plan: Mutex<Plan>,
    findings: Findings,
}

#[derive(Default)]
struct Plan {
    calls: usize,
    fail: Option<Box<FailWhen>>,
}

type FailWhen = dyn FnMut(usize, &Call) -> Option<Errno> + Send;

impl Faults {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Faults {
    fn before(&self, call: &Call) -> Result<(), Errno> {
        let mut plan = self.plan();
        let index = plan.calls;
        plan.calls += 1;
        match plan.fail.as_mut().and_then(|fail| fail(index, call)) {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }

    fn after(&self, _: Call, _: Result<usize, Errno>) {}

    fn findings(&self) -> Option<&Findings> {
        Some(&self.0.findings)
    }
}

impl<K> Faulty<K> {
    /// Stands before `kernel`; nothing fails yet.
    pub fn new(kernel: K) -> Faulty<K> {
        Watched { kernel, watch: Faults::default() }
    }

    /// Fails each call for which `when` names an error. It is given the number of calls that came
    /// before, counted from now.
    pub fn fail_when(&self, when: impl FnMut(usize, &Call) -> Option<Errno> + Send + 'static) {
        *self.watch.plan() = Plan { calls: 0, fail: Some(Box::new(when)) };
    }

    /// Fails the `n`-th call from now, counted from zero.
    pub fn fail_nth(&self, n: usize, errno: Errno) {
        self.fail_when(move |index, _| (index == n).then_some(errno));
    }

    /// Fails every call that `which` says yes to.
    pub fn fail_every(&self, which: impl Fn(&Call) -> bool + Send + 'static, errno: Errno) {
        self.fail_when(move |_, call| which(call).then_some(errno));
    }

    /// Fails one call in `times`, as the seed decides.
    pub fn fail_at_random(&self, seed: u64, times: usize, errno: Errno) {
        let mut random = Random::new(seed);
        self.fail_when(move |_, _| random.once_in(times).then_some(errno));
    }

    /// Fails nothing any more.
    pub fn fail_nothing(&self) {
        *self.watch.plan() = Plan::default();
    }

    /// Calls since failures were last arranged.
    pub fn calls(&self) -> usize {
        self.watch.plan().calls
    }
}
