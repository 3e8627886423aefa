//! What the tests share: a second thread, and the lines of a run.
#![allow(dead_code)] // Not every test uses all of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sysmem_probe::{Capable, Options, Platform, Summary};

/// A turn: who has it is the only one that runs the suite or maps memory.
pub struct Turn(#[allow(dead_code)] MutexGuard<'static, ()>);

/// Waits for a turn. The suite measures the process, and looks whether places that it freed are
/// free: no other test is to start a simulated kernel meanwhile either.
pub fn alone() -> Turn {
    static ONE: Mutex<()> = Mutex::new(());
    Turn(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `work` here and on another thread.
pub fn beside(work: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}

/// A run: what it printed as JSON lines, taken apart.
pub struct Run {
    pub text: String,
    pub summary: Summary,
    /// Result and detail by the name of the check.
    pub checks: BTreeMap<String, (String, String)>,
}

impl Run {
    pub fn names(&self, result: &str) -> Vec<&str> {
        let ended_so = |(_, (ended, _)): &(_, &(String, String))| ended == result;
        self.checks.iter().filter(ended_so).map(|(name, _)| name.as_str()).collect()
    }
}

const OPTIONS: Options = Options { json: true, beside: Some(beside) };

pub fn run<O: Capable, P: Platform>(_turn: &Turn, os: &O, platform: &P) -> Run {
    let mut text = String::new();
    let summary = sysmem_probe::run(os, platform, &mut text, OPTIONS);
    taken_apart(text, summary)
}

pub fn taken_apart(text: String, summary: Summary) -> Run {
    let mut checks = BTreeMap::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        let text = |key| line[key].as_str().map(str::to_owned);
        if let Some(name) = text("check") {
            let ended = (text("result").unwrap(), text("detail").unwrap());
            let before = checks.insert(name, ended);
            assert!(before.is_none(), "two checks have the same name: {line}");
        }
    }
    Run { text, summary, checks }
}
