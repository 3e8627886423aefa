//! The table of contracts in the documentation says what the backends say.

use sysmem::GiveBack;
use sysmem::os::Os;
use sysmem::os::linux::Linux;
use sysmem::sim::{Settings, Simulated};

use super::{bsds, freebsd, others};

#[test]
fn the_documented_contracts_are_those_of_the_backends() {
    let linux = Linux::new(Simulated::new(Settings::heap(1 << 20)));
    let systems: [(&str, &dyn Os); 9] = [
        ("Linux", &linux),
        ("FreeBSD", &freebsd::freebsd(0)),
        ("FreeBSD, strict", &freebsd::freebsd(1)),
        ("NetBSD", &bsds::netbsd()),
        ("OpenBSD", &bsds::openbsd()),
        ("DragonFly", &bsds::dragonfly()),
        ("illumos", &others::illumos()),
        ("Darwin", &others::darwin()),
        ("Windows", &others::windows()),
    ];
    let mut expected = Vec::new();
    for (name, os) in systems {
        for how in [GiveBack::Lazy, GiveBack::Eager] {
            let contract = os.unused_contract(how);
            let used = if contract.used_is_a_call { "a call" } else { "no call" };
            let (falls, contents) = (contract.resident_falls, contract.contents);
            expected
                .push(format!("| {name} | `{how:?}` | `{falls:?}` | `{contents:?}` | {used} | "));
        }
    }
    let rows: Vec<_> = include_str!("../../src/os/contract.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("/// "))
        .filter(|row| row.contains("| `Lazy` |") || row.contains("| `Eager` |"))
        .collect();
    assert_eq!(rows.len(), expected.len(), "{rows:#?}");
    for (row, expected) in rows.into_iter().zip(expected) {
        assert!(row.starts_with(&expected), "the documentation says {row:?}, not {expected:?}");
    }
}
