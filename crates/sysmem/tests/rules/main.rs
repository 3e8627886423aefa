//! What real kernels were seen to answer, question by question, and what the simulated ones do.
//! FreeBSD is 15-CURRENT, OpenBSD 7.6, NetBSD 7.0, each on amd64.

mod execution;
mod forking;
mod giving_back;
mod limits;
mod mapping;
mod process;
mod removing;
mod superpages;

use process::{Process, Running};
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
        let processes: [(&[i64], &dyn Process); 3] = [
            (row.freebsd, &Running::<sim::FreeBsd>::new(&settings)),
            (row.openbsd, &Running::<sim::OpenBsd>::new(&settings)),
            (row.netbsd, &Running::<sim::NetBsd>::new(&settings)),
        ];
        for (expected, process) in processes {
            if !expected.is_empty() {
                let found = (row.ask)(process);
                assert_eq!(found, expected, "{}: {}", process.name(), row.question);
            }
        }
    }
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
fn superpages_are_made_and_broken_as_they_were_seen_to_be() {
    check(superpages::ROWS);
}
