//! Which questions there are, and which kernels were asked each: a kernel without an answer to one
//! it was asked fails.

use std::collections::BTreeMap;

use super::windows;
use super::{KERNELS, Row};

/// FreeBSD, OpenBSD and NetBSD, by their first letters, were seen to answer; DragonFly, dArwin,
/// illumos and Windows are read.
const ASKED: &[(&str, &str, &str)] = &[
    ("1a", "FONDAIW", "mapping of 1 GiB, 1 TiB, 64 TiB that allows nothing"),
    ("1b", "FONDW", "the same of 127 TiB, and of all there is"),
    ("1c", "FONDAIW", "readable and writable, with the limits that are the default"),
    ("1d", "FONDAI", "RLIMIT_DATA"),
    ("1e", "FONDAI", "RLIMIT_AS"),
    ("1f", "FONDAIW", "a part of a reservation made writable later"),
    ("1g", "OW", "what is changed when that is refused"),
    ("1h", "FW", "what is charged"),
    ("1i", "FONDAI", "promises that are refused"),
    ("1j", "FON", "what counts as size"),
    ("2a", "FONDAIW", "access taken away and given again"),
    ("2b", "FONDAIW", "mprotect of nothing, unaligned"),
    ("2c", "FONDAIW", "mprotect over holes, of nothing mapped, with unknown bits"),
    ("3a", "FONDAIW", "MADV_FREE of touched pages"),
    ("3b", "FONDI", "through protections that do not allow to write"),
    ("3c", "FONDI", "of untouched pages"),
    ("3d", "FONDAI", "over holes"),
    ("3e", "FONDAI", "unaligned"),
    ("3f", "FONDAI", "of nothing"),
    ("3g", "FON", "of shared memory"),
    ("3h", "FONDAI", "of wired memory"),
    ("4a", "FONDAI", "MADV_DONTNEED of touched pages"),
    ("4b", "FONDAI", "through protections, of untouched, shared, wired pages"),
    ("4c", "FONDAI", "over holes, unaligned, of nothing"),
    ("4d", "FO", "posix_madvise"),
    ("5a", "FONDAIW", "a fixed mapping over touched pages"),
    ("5b", "FONDAIW", "the same that allows nothing"),
    ("5c", "FONDAI", "unaligned, half over a hole"),
    ("5d", "FONDAI", "refused: what is left"),
    ("6", "FDAIW", "what is left under pressure"),
    ("7a", "FONDAIW", "munmap of a part"),
    ("7b", "FONDAIW", "of a hole"),
    ("7c", "FONDW", "unaligned"),
    ("7d", "FONDAIW", "of nothing"),
    ("7e", "FON", "where no program's memory is"),
    ("8a", "FONDAW", "lengths that nothing has"),
    ("8b", "FOND", "offsets and descriptors of no file"),
    ("8c", "FONDAI", "neither shared nor private; both"),
    ("8d", "FONAW", "protections and flags that nobody knows"),
    ("8e", "FONDAW", "a hint that is taken"),
    ("8f", "FONDAI", "a hint that is free"),
    ("8g", "FONDAIW", "a hint that is unaligned, low, a kernel's address"),
    ("8h", "FON", "fixed at low addresses"),
    ("8i", "FONDAW", "fixed at the end of all addresses and beyond"),
    ("8j", "FONDW", "mapping without replacing"),
    ("8k", "FOND", "what else there is: 32 bits, stacks, mquery"),
    ("9a", "FNW", "alignment by a flag"),
    ("9b", "FN", "alignment and a hint, fixed"),
    ("9c", "F", "alignment to superpages"),
    ("9d", "F", "guards"),
    ("10a", "FOA", "writable and executable"),
    ("10b", "FONDAIW", "writable, executable, and back"),
    ("10c", "FONDAIW", "a reservation made executable"),
    ("10d", "F", "the most that a mapping may ever allow"),
    ("10e", "O", "shared memory made executable"),
    ("10f", "O", "mimmutable"),
    ("11a", "FONDA", "minherit: what a child finds"),
    ("11b", "FONDA", "with a bad number, unaligned, over a hole"),
    ("11c", "FONDAI", "core dumps and other advice"),
    ("11d", "FONDAI", "advice that is everywhere; -1"),
    ("12a", "FONDIW", "mlock of untouched pages"),
    ("12b", "FONDW", "of what allows nothing, over a hole, of nothing"),
    ("12c", "FONDAIW", "munlock of what is not locked"),
    ("12d", "FONDAIW", "beyond the limit"),
    ("12e", "FONDAIW", "protecting and unmapping what is locked"),
    ("12f", "FON", "MADV_WILLNEED"),
    ("13a", "FW", "what is said of superpages"),
    ("13b", "F", "superpages made"),
    ("13c", "F", "superpages broken"),
    ("14f", "FNDAIW", "mincore"),
    ("15a", "FONDAI", "the signal for what allows nothing, or not this"),
    ("15b", "FONDAI", "for what is not mapped"),
    ("15c", "F", "for a guard"),
    ("15d", "FONDI", "for what is no address"),
    ("16a", "FONDAI", "fork after MADV_FREE"),
    ("16b", "FOND", "a child's own advice"),
    ("16c", "FONDAI", "fork with large reservations"),
];

// Not asked here: 10e of FreeBSD and NetBSD (one memory at two addresses) is in tests/views.rs and
// tests/backends. Writable and executable memory, which FreeBSD and NetBSD also give (10a), no
// simulated kernel has; nor files, past the end of which there is a signal (15e). What sysctl and
// getrusage tell of machine and process (14a to 14e) is asked where it is decoded (src/usage),
// but for what the rows about sizes and resident sets read of it.

pub(crate) fn check<'r>(rows: impl Iterator<Item = &'r Row>) {
    let mut answered = BTreeMap::<&str, String>::new();
    let mut answer = |question: &'static str, kernels: &str| {
        for number in numbers(question) {
            answered.entry(number).or_default().push_str(kernels);
        }
    };
    for row in rows {
        let kernels = KERNELS.iter().filter(|kernel| !(kernel.answers)(row).is_empty());
        let kernels: String = kernels.map(|kernel| kernel.letter).collect();
        answer(row.question, &kernels);
    }
    windows::ROWS.iter().for_each(|row| answer(row.question, "W"));
    for (number, kernels, what) in ASKED {
        let answered = answered.remove(number).unwrap_or_default();
        let missing: String = kernels.chars().filter(|&it| !answered.contains(it)).collect();
        assert!(missing.is_empty(), "{number} ({what}) has no row for {missing}");
    }
    assert!(answered.is_empty(), "questions that are not in the list: {answered:?}");
}

/// The numbers that a question is about: "2a: …", "1c, 1d: …", also in its middle.
fn numbers(question: &'static str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut parts: Vec<&str> = question.split(':').collect();
    parts.pop();
    for part in parts {
        for word in part.split([' ', ';']).rev() {
            let number = word.trim_end_matches(',');
            let digits = number.trim_end_matches(|it: char| it.is_ascii_lowercase());
            if digits.parse::<u8>().is_err() || number.len() - digits.len() > 1 {
                break;
            }
            found.push(number);
        }
    }
    found
}
