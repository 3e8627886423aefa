//! Memory in huge pages, on the system that the tests run on.

use sysmem::huge::{self, HugeMemory, Scope};
use sysmem::{Account, ErrorKind, Limit};

static HUGE: Account = Account::new("huge memory");

#[test]
fn huge_memory_is_zeroed_and_writable_or_refused_with_the_reason() {
    // For the process, where it takes a privilege; the answer is looked at below.
    let switched = huge::set(Scope::Process, true);
    let size = huge::query().size.unwrap_or(2 << 20);
    let before = HUGE.figures().ready;
    match HugeMemory::alloc(2 * size, &HUGE) {
        Ok(memory) => {
            assert_eq!(memory.len(), 2 * size);
            assert_eq!(memory.as_mut_ptr().addr() % size, 0);
            assert_eq!(HUGE.figures().ready - before, 2 * size as u64);
            for at in [0, size - 1, size, 2 * size - 1] {
                let byte = memory.as_mut_ptr().wrapping_add(at);
                // SAFETY: inside the memory, which is readable and writable.
                assert_eq!(unsafe { byte.read_volatile() }, 0);
                // SAFETY: as above.
                unsafe { byte.write_volatile(7) };
            }
        }
        Err(error) => {
            let text = error.to_string();
            match error.kind() {
                ErrorKind::NotSupported => {}
                ErrorKind::OutOfMemory { limit: Some(Limit::HugePages(_)), .. } => {
                    assert!(text.contains("raise vm.nr_hugepages"), "{text}");
                }
                ErrorKind::NoPrivilege { .. } => {
                    assert!(text.contains("Lock pages in memory"), "{text}");
                    assert_eq!(switched.unwrap_err().kind(), error.kind());
                }
                ErrorKind::OutOfMemory { .. } => {}
                other => panic!("{other:?}: {text}"),
            }
            println!("{text}");
        }
    }
    assert_eq!(HUGE.figures().ready, before);
}

#[test]
fn part_of_a_huge_page_is_refused_before_the_system_is_asked() {
    let size = huge::query().size.unwrap_or(2 << 20);
    let kind = HugeMemory::alloc(size + 4096, &HUGE).unwrap_err().kind();
    let refused = [ErrorKind::Unaligned { multiple: size }, ErrorKind::NotSupported];
    assert!(refused.contains(&kind), "{kind:?}");
}
