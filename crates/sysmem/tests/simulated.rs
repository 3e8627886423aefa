//! The simulated kernel does what a kernel does, on both of its backings.

use sysmem::os::linux::Linux;
use sysmem::sim::{Backing, LazilyFreed, Settings, Simulated};
use sysmem::{Account, GiveBack, Protection, Reservation, ReserveOptions, State};

static ACCOUNT: Account = Account::new("simulated");

fn kernels() -> [Simulated; 2] {
    [Settings::heap(4 << 20), Settings::real(1 << 36)].map(Simulated::new)
}

#[test]
fn memory_of_a_simulated_process_is_used_given_back_and_zero_again() {
    for kernel in kernels() {
        let os = Linux::new(kernel.clone());
        let mut memory =
            Reservation::reserve_in(&os, ReserveOptions::new(1 << 20), &ACCOUNT).unwrap();
        memory.map(0, 64 << 10, Protection::ReadWrite).unwrap();
        memory.used(0, 64 << 10).unwrap();
        for offset in (0..64 << 10).step_by(4096) {
            // SAFETY: Ready.
            let page = unsafe { memory.as_mut_ptr().add(offset).cast::<u64>() };
            // SAFETY: Ready.
            unsafe {
                assert_eq!(page.read(), 0);
                page.write(offset as u64 + 1);
            }
        }
        let metadata = os.registry_bytes();
        assert!(kernel.resident_bytes() >= 64 << 10);
        assert!(kernel.resident_bytes() <= (64 << 10) + metadata);
        memory.unused(0, 32 << 10, GiveBack::Eager).unwrap();
        memory.used(0, 32 << 10).unwrap();
        // SAFETY: Ready.
        unsafe {
            assert_eq!(memory.as_mut_ptr().cast::<u64>().read(), 0);
            assert_eq!(memory.as_mut_ptr().add(32 << 10).cast::<u64>().read(), (32 << 10) + 1);
        }
        assert_eq!(memory.resident_bytes(0, 1 << 20), Ok(32 << 10));
        memory.fault(0, 1 << 20).unwrap();
        assert_eq!(memory.state(0), Some((State::Reserved, Protection::NoAccess, 1 << 20)));
        assert_eq!(memory.resident_bytes(0, 1 << 20), Ok(0));
        drop(memory);
        assert_eq!(kernel.totals().mapped, metadata);
    }
}

trait RegistryBytes {
    fn registry_bytes(&self) -> usize;
}

impl<O: sysmem::Os> RegistryBytes for O {
    fn registry_bytes(&self) -> usize {
        self.registry().metadata_bytes()
    }
}

#[test]
#[should_panic(expected = "stray write")]
fn a_stray_write_to_reserved_heap_memory_is_found() {
    let kernel = Simulated::new(Settings::heap(1 << 20));
    let os = Linux::new(kernel.clone());
    let memory = Reservation::reserve_in(&os, ReserveOptions::new(1 << 16), &ACCOUNT).unwrap();
    // SAFETY: a bug on purpose; the memory is a heap block that the simulator owns.
    unsafe { memory.as_mut_ptr().add(12345).write(1) };
    kernel.verify();
}

#[test]
fn pressure_takes_lazily_freed_pages_that_were_not_written_to() {
    for backing in [Backing::Heap, Backing::Real] {
        let kernel = Simulated::new(Settings {
            backing,
            lazily_freed: LazilyFreed::Kept,
            ..Settings::heap(1 << 20)
        });
        let os = Linux::new(kernel.clone());
        let mut memory = Reservation::alloc_in(&os, 8192, &ACCOUNT).unwrap();
        let first = memory.as_mut_ptr().cast::<u64>();
        // SAFETY: Ready.
        unsafe {
            first.write(1);
            first.add(512).write(2);
        }
        memory.unused(0, 8192, GiveBack::Lazy).unwrap();
        memory.used(0, 8192).unwrap();
        // SAFETY: Ready.
        unsafe {
            assert_eq!((first.read(), first.add(512).read()), (1, 2));
            first.add(512).write(3);
            kernel.pressure();
            assert_eq!((first.read(), first.add(512).read()), (0, 3));
        }
    }
}
