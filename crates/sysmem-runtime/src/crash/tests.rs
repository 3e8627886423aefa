use std::vec::Vec;

use sysmem::os::darwin::Darwin;
use sysmem::os::dragonfly::DragonFly;
use sysmem::os::illumos::Illumos;
use sysmem::os::linux::Linux;
use sysmem::os::windows::Windows;
use sysmem::sim::{self, Settings, Simulated, System};
use sysmem::usage::PageFigures;
use sysmem::{Account, Protection, Reservation};

use super::*;

static POOL: Account = Account::new("pool of a crash");
const MIB: usize = 1 << 20;

fn mapping(bounds: (usize, usize), kind: MappingKind, accessible: bool) -> Mapping<'static> {
    Mapping {
        start: bounds.0,
        end: bounds.1,
        readable: accessible,
        writable: accessible,
        executable: false,
        shared: None,
        offset: 0,
        kind,
        name: b"",
        pages: PageFigures::default(),
    }
}

#[test]
fn what_is_private_and_not_needed_faults() {
    use Fate::*;
    use MappingKind as Kind;
    let at = |kind| mapping((0x5000, 0x6000), kind, true);
    let fate = |mapping: &Mapping<'_>, file_end| {
        fate_of(mapping, file_end, &super::Needed::of([0x5fff, 0, 0]))
    };
    let needless = |kind| mapping((0x7000, 0x9000), kind, true);
    for (mapping, file_end, expected) in [
        (needless(Kind::Anonymous), 0, Faults),
        (needless(Kind::Named), 0, Faults),
        (needless(Kind::ProgramBreak), 0, Faults),
        // Behind a file, a variable that begins as zero; the heap behind it is none.
        (needless(Kind::Anonymous), 0x7000, Needed),
        (needless(Kind::ProgramBreak), 0x7000, Faults),
        (needless(Kind::Stack), 0, Needed),
        (needless(Kind::SharedMemory), 0, Shared),
        (Mapping { shared: Some(true), ..needless(Kind::File) }, 0, Shared),
        (Mapping { shared: Some(true), ..needless(Kind::Anonymous) }, 0, Shared),
        (needless(Kind::File), 0, File),
        (needless(Kind::Program), 0, File),
        (needless(Kind::System), 0, Kernel),
        // What the thread needs lies in it.
        (at(Kind::Anonymous), 0, Needed),
        (at(Kind::Named), 0, Needed),
        (mapping((0x7000, 0x9000), Kind::Anonymous, false), 0, Nothing),
    ] {
        assert_eq!(fate(&mapping, file_end), expected, "{mapping:x?}");
    }
}

/// Takes a process away whose mappings are told as the simulated kernel knows them, in a buffer
/// that is large enough for one in `least` bytes only.
fn crash<S: System, O: Os + Clone>(os: impl Fn(Simulated<S>) -> O, least: usize) {
    let kernel = Simulated::<S>::start(Settings::real(64 * MIB));
    let os = os(kernel.clone());
    let memory: Vec<_> = (0..3)
        .map(|index| {
            let memory = Reservation::alloc_in(os.clone(), (index + 1) * MIB, &POOL).unwrap();
            // SAFETY: Ready.
            unsafe { memory.as_mut_ptr().write_bytes(7, memory.len()) };
            memory
        })
        .collect();
    let accessible = kernel.totals().accessible;
    let list = |buffer: &mut [u8], each: &mut dyn FnMut(&Mapping<'_>)| {
        if buffer.len() < least {
            let kind = ErrorKind::SmallBuffer { least };
            return Err(Error::new(sysmem::Operation::Usage, 0, 0, kind));
        }
        for found in kernel.mappings() {
            let accessible = found.attributes.protection != Protection::NoAccess;
            each(&mapping((found.start, found.end), MappingKind::Anonymous, accessible));
        }
        Ok(())
    };
    // SAFETY: the simulated process is not used any more.
    let outcome = unsafe { fault_process(&os, list) }.unwrap();
    assert_eq!(outcome, FaultAllOutcome { faulted: accessible, ..FaultAllOutcome::default() });
    assert_eq!(kernel.totals().accessible, 0, "the buffer for the list is gone, too");
    for memory in &memory {
        let allowed = kernel.protection_at(memory.as_mut_ptr().addr());
        assert_eq!(allowed, Some(Protection::NoAccess));
    }
    // The registry is gone with the rest.
    std::mem::forget(memory);
}

#[test]
fn every_system_gives_up_what_is_not_needed_whatever_the_length_of_the_list() {
    for least in [0, 4 * FIRST_BUFFER] {
        crash(Linux::<Simulated>::new, least);
        crash(DragonFly::<Simulated<sim::DragonFly>>::new, least);
        crash(Illumos::<Simulated<sim::Illumos>>::new, least);
        crash(Darwin::<Simulated<sim::Darwin>>::new, least);
        crash(Windows::<Simulated<sim::Windows>>::new, least);
    }
}
