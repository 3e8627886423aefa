//! What the running Linux keeps of a reservation's policy, as /proc/self/smaps tells it.
#![cfg(target_os = "linux")]

use sysmem::os::Inheritance;
use sysmem::{Account, ErrorKind, GiveBack, Os, Policy, Protection, Reservation, ReserveOptions};

static ACCOUNT: Account = Account::new("policy");

/// The flags of the mapping that holds an address (proc_pid_smaps(5)): "dc" is not copied for a
/// child, "wf" is zeroed for it, "dd" is not dumped.
fn flags(address: usize) -> Vec<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let bounds = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((start, end)) = bounds {
            let number = |text| usize::from_str_radix(text, 16);
            if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                inside = (start..end).contains(&address);
            }
        }
        if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.split_whitespace().map(String::from).collect();
        }
    }
    panic!("{address:#x} is not mapped");
}

fn has(memory: &Reservation, offset: usize) -> [bool; 3] {
    let flags = flags(memory.as_mut_ptr().addr() + offset);
    ["dc", "wf", "dd"].map(|flag| flags.iter().any(|other| other == flag))
}

#[test]
fn a_policy_holds_through_every_operation_and_can_be_changed() {
    let page = sysmem::page_size();
    let options = ReserveOptions::new(8 * page).dumped(false).inheritance(Inheritance::Nothing);
    let mut memory = Reservation::reserve(options, &ACCOUNT).unwrap();
    assert_eq!(has(&memory, 0), [true, false, true]);
    memory.map(0, 4 * page, Protection::ReadWrite).unwrap();
    memory.used(0, 4 * page).unwrap();
    memory.unused(0, 4 * page, GiveBack::Eager).unwrap();
    assert_eq!(has(&memory, page), [true, false, true]);
    memory.fault(0, 4 * page).unwrap();
    assert_eq!(has(&memory, page), [true, false, true]);
    memory.set_inheritance(Inheritance::Zeros).unwrap();
    memory.set_dumped(true).unwrap();
    assert_eq!(has(&memory, page), [false, true, false]);
    memory.set_inheritance(Inheritance::Copy).unwrap();
    assert_eq!(has(&memory, page), [false, false, false]);
    assert_eq!(memory.policy(), Policy::DEFAULT);
}

#[test]
fn what_linux_cannot_do_is_refused_and_changes_nothing() {
    let shared = ReserveOptions::new(sysmem::page_size()).inheritance(Inheritance::Share);
    assert!(!sysmem::Native::NEW.supports(shared.policy()));
    let error = Reservation::reserve(shared, &ACCOUNT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
    let options = ReserveOptions::new(sysmem::page_size());
    let mut memory = Reservation::reserve(options, &ACCOUNT).unwrap();
    let error = memory.set_inheritance(Inheritance::Share).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
    assert_eq!(memory.policy(), Policy::DEFAULT);
    assert_eq!(has(&memory, 0), [false; 3]);
}
