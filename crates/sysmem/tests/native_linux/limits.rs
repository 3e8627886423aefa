//! Limits on a process, which are named where they refuse.

use std::fs;

use sysmem::{Error, ErrorKind, Limit, Protection, Reservation, ReserveOptions, State, page_size};

use super::{ACCOUNT, End, in_child};

fn limit_of(error: Error) -> Option<Limit> {
    match error.kind() {
        ErrorKind::OutOfMemory { limit, .. } => limit,
        _ => None,
    }
}

#[test]
fn limits_on_a_process_are_named() {
    fn set(resource: libc::__rlimit_resource_t, bytes: u64) {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: `limit` is read only; the process is a child that ends soon.
        unsafe { libc::setrlimit(resource, &limit) };
    }
    let end = in_child(|| {
        set(libc::RLIMIT_AS, 3 << 30);
        let result = Reservation::reserve(ReserveOptions::new(4 << 30), &ACCOUNT);
        let named = result.map_err(limit_of).err() == Some(Some(Limit::AddressSpace(3 << 30)));
        i32::from(!named)
    });
    assert_eq!(end, End::Exit(0), "RLIMIT_AS");
    let end = in_child(|| {
        let Ok(mut memory) = Reservation::reserve(ReserveOptions::new(4 << 30), &ACCOUNT) else {
            return 1;
        };
        set(libc::RLIMIT_DATA, 1 << 30);
        let named =
            |result: Result<(), Error>| result.map_err(limit_of) == Err(Some(Limit::Data(1 << 30)));
        if !named(memory.map(0, 2 << 30, Protection::ReadWrite)) {
            return 2;
        }
        if memory.state(0) != Some((State::Reserved, Protection::NoAccess, 4 << 30)) {
            return 3;
        }
        if !named(Reservation::alloc(2 << 30, &ACCOUNT).map(drop)) {
            return 4;
        }
        i32::from(memory.map(0, 1 << 20, Protection::ReadWrite).is_err()) * 5
    });
    assert_eq!(end, End::Exit(0), "RLIMIT_DATA");
}

#[test]
fn the_limit_on_mappings_is_named() {
    let most: usize =
        fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    if most > 300_000 {
        return eprintln!("skipped: {most} mappings take too long to make");
    }
    let end = in_child(|| {
        let page = page_size();
        let options = ReserveOptions::new(2 * most * page);
        let Ok(mut memory) = Reservation::reserve(options, &ACCOUNT) else { return 1 };
        for index in 0..most {
            if let Err(error) = memory.map(2 * index * page, page, Protection::ReadWrite) {
                let named = limit_of(error) == Some(Limit::Mappings(most as u64));
                return i32::from(!named) * 2;
            }
        }
        3
    });
    assert_eq!(end, End::Exit(0));
}
