//! What kernels answer, question by question, and what the simulated ones do. FreeBSD (15-CURRENT),
//! OpenBSD (7.6) and NetBSD (7.0), each on amd64, were seen to answer so. What is said of DragonFly,
//! Darwin, illumos and Windows is read in their sources and manuals: where, the simulators say.

mod asked;
mod execution;
mod forking;
mod giving_back;
mod limits;
mod mapping;
mod process;
mod removing;
mod signals;
mod sizes;
mod superpages;
mod windows;

use process::{Numbers, Process, Running};
use sysmem::sim::{self, Settings};

/// A question, and what each kernel answers: error numbers, zero for success, or what the question
/// says. Kernels that were not asked, or have no such call, have no answer.
pub(crate) struct Row {
    pub(crate) question: &'static str,
    pub(crate) settings: fn(&mut Settings),
    pub(crate) ask: fn(&dyn Process) -> Vec<i64>,
    pub(crate) freebsd: &'static [i64],
    pub(crate) openbsd: &'static [i64],
    pub(crate) netbsd: &'static [i64],
    pub(crate) dragonfly: &'static [i64],
    pub(crate) darwin: &'static [i64],
    pub(crate) illumos: &'static [i64],
}

/// A question that nobody was asked.
pub(crate) const UNASKED: Row = Row {
    question: "",
    settings: plain,
    ask: |_| Vec::new(),
    freebsd: &[],
    openbsd: &[],
    netbsd: &[],
    dragonfly: &[],
    darwin: &[],
    illumos: &[],
};

/// A kernel that is asked.
pub(crate) struct Kernel {
    pub(crate) letter: char,
    pub(crate) answers: fn(&Row) -> &'static [i64],
    start: fn(&Settings) -> Box<dyn Process>,
}

pub(crate) const KERNELS: [Kernel; 6] = [
    Kernel { letter: 'F', answers: |row| row.freebsd, start: start::<sim::FreeBsd> },
    Kernel { letter: 'O', answers: |row| row.openbsd, start: start::<sim::OpenBsd> },
    Kernel { letter: 'N', answers: |row| row.netbsd, start: start::<sim::NetBsd> },
    Kernel { letter: 'D', answers: |row| row.dragonfly, start: start::<sim::DragonFly> },
    Kernel { letter: 'A', answers: |row| row.darwin, start: start::<sim::Darwin> },
    Kernel { letter: 'I', answers: |row| row.illumos, start: start::<sim::Illumos> },
];

fn start<S: Numbers>(settings: &Settings) -> Box<dyn Process> {
    Box::new(Running::<S>::new(settings))
}

/// The settings of a kernel that says yes wherever it may.
pub(crate) fn plain(_settings: &mut Settings) {}

fn check(rows: &[Row]) {
    for row in rows {
        let mut settings = Settings {
            scattered: false,
            aslr: false,
            imply_prot_max: false,
            pax_mprotect: false,
            lazily_freed: sim::LazilyFreed::Kept,
            ..Settings::heap(16 << 20)
        };
        (row.settings)(&mut settings);
        for kernel in KERNELS.iter().filter(|kernel| !(kernel.answers)(row).is_empty()) {
            let process = (kernel.start)(&settings);
            let found = (row.ask)(&*process);
            assert_eq!(found, (kernel.answers)(row), "{}: {}", process.name(), row.question);
        }
    }
}

/// All tables of rows.
const TABLES: [&[Row]; 11] = [
    limits::ROWS,
    mapping::MAKING,
    mapping::REPLACING,
    giving_back::ROWS,
    giving_back::RESIDENT,
    removing::ROWS,
    forking::ROWS,
    execution::ROWS,
    sizes::ROWS,
    superpages::ROWS,
    signals::ROWS,
];

#[test]
fn every_question_is_answered_for_every_kernel_that_was_asked() {
    asked::check(TABLES.into_iter().flatten());
}

#[test]
fn lengths_and_places_that_no_test_has_are_answered_as_they_were_seen_to_be() {
    check(sizes::ROWS);
}

#[test]
fn windows_answers_as_its_reference_says() {
    windows::check();
}

#[test]
fn limits_refuse_as_they_were_seen_to() {
    check(limits::ROWS);
}

#[test]
fn mappings_are_made_as_they_were_seen_to_be() {
    check(mapping::MAKING);
}

#[test]
fn fixed_mappings_replace_as_they_were_seen_to() {
    check(mapping::REPLACING);
}

#[test]
fn memory_is_given_back_as_it_was_seen_to_be() {
    check(giving_back::ROWS);
}

#[test]
fn protections_and_removals_are_as_they_were_seen_to_be() {
    check(removing::ROWS);
}

#[test]
fn forked_children_find_what_they_were_seen_to() {
    check(forking::ROWS);
}

#[test]
fn the_resident_set_is_told_as_it_was_seen_to_be() {
    check(giving_back::RESIDENT);
}

#[test]
fn memory_becomes_executable_and_immutable_as_it_was_seen_to() {
    check(execution::ROWS);
}

#[test]
fn stray_accesses_are_told_as_they_were_seen_to_be() {
    check(signals::ROWS);
}

#[test]
fn superpages_are_made_and_broken_as_they_were_seen_to_be() {
    check(superpages::ROWS);
}
