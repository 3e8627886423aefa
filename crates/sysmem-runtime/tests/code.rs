//! Machine code that is written, published, run, patched under threads that run it, and given
//! back; and systems that forbid it.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod child;
mod machine_code;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use machine_code::{call, jump, returns};
use sysmem::{Account, ErrorKind, Placement, Reservation, ReserveOptions, page_size};
use sysmem_runtime::{CodeError, CodeMechanism, CodeOptions, CodeRegion};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
static CODE: Account = Account::new("test code");

fn region(mechanism: CodeMechanism) -> CodeRegion {
    let region = CodeRegion::reserve(CodeOptions::new(MIB).mechanism(mechanism)).unwrap();
    assert_eq!(region.mechanism(), mechanism);
    assert_eq!(region.refusals().count(), 0);
    region
}

/// The mechanisms of the running system.
fn mechanisms() -> Vec<CodeMechanism> {
    let all = [CodeMechanism::TwoViews, CodeMechanism::PerThread, CodeMechanism::Switch];
    let here = all.into_iter().filter(|&mechanism| {
        CodeRegion::reserve(CodeOptions::new(MIB).mechanism(mechanism)).is_ok()
    });
    here.collect()
}

#[test]
fn the_running_system_has_the_mechanisms_that_it_is_known_for() {
    use CodeMechanism::*;
    if cfg!(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", windows)) {
        assert_eq!(mechanisms(), [TwoViews, Switch]);
    } else {
        assert!(mechanisms().contains(&Switch));
    }
}

#[cfg(target_os = "linux")]
/// What /proc/self/maps says is allowed at an address.
fn allowed(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        number(start) <= address && address < number(end)
    });
    line.unwrap().split(' ').nth(1).unwrap()[..3].into()
}

#[test]
fn code_is_written_published_run_rewritten_and_discarded() {
    for mechanism in mechanisms() {
        let mut region = region(mechanism);
        let page = page_size();
        // Across a page's end, to begin with.
        region.write(page - 2, &returns(7)).unwrap();
        region.write(3 * page, &returns(8)).unwrap();
        assert_eq!(region.publish(0, 4 * page), Err(CodeError::NotWritten(2 * page)));
        region.publish(0, 2 * page).unwrap();
        region.publish(3 * page, page).unwrap();
        // x86_64 runs unaligned code; aarch64 does not.
        if cfg!(target_arch = "x86_64") {
            assert_eq!(call(&region, page - 2), 7);
        }
        assert_eq!(call(&region, 3 * page), 8);
        assert_eq!(region.write(page, &[1]), Err(CodeError::Published(page)));
        // SAFETY: nobody runs it.
        unsafe { region.unpublish(0, 2 * page) }.unwrap();
        #[cfg(target_os = "linux")]
        assert!(!allowed(region.address(0).addr()).contains('x'));
        region.write(page, &returns(9)).unwrap();
        region.publish(page, page).unwrap();
        assert_eq!((call(&region, page), call(&region, 3 * page)), (9, 8));
        // SAFETY: nobody runs it.
        unsafe { region.discard(0, 4 * page) }.unwrap();
        assert_eq!(region.publish(page, page), Err(CodeError::NotWritten(page)));
        region.write(2 * page, &returns(10)).unwrap();
        region.publish(2 * page, page).unwrap();
        assert_eq!(call(&region, 2 * page), 10);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_address_is_ever_writable_and_executable() {
    for mechanism in mechanisms() {
        let mut region = region(mechanism);
        let ours = region.address(0).addr();
        let check = |when: &str| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            for line in maps.lines() {
                let allows = line.split(' ').nth(1).unwrap();
                assert!(!(allows.contains('w') && allows.contains('x')), "{when}: {line}");
            }
        };
        region.write(0, &returns(1)).unwrap();
        check("written");
        region.publish(0, page_size()).unwrap();
        check("published");
        assert_eq!(allowed(ours), "r-x");
        // SAFETY: nobody runs it.
        unsafe { region.unpublish(0, page_size()) }.unwrap();
        check("unpublished");
    }
}

#[test]
fn a_write_through_the_executable_address_faults() {
    let test = "a_write_through_the_executable_address_faults";
    for (which, mechanism) in
        [("two views", CodeMechanism::TwoViews), ("switch", CodeMechanism::Switch)]
    {
        let ended = child::run(test, which, || {
            let mut region = region(mechanism);
            region.write(0, &returns(1)).unwrap();
            region.publish(0, page_size()).unwrap();
            assert_eq!(call(&region, 0), 1);
            // SAFETY: faults, which is what is looked for.
            unsafe { region.address(0).cast_mut().write_volatile(0) };
        });
        let Some(ended) = ended else { continue };
        assert_eq!(ended.signal, Some(child::SIGSEGV), "{which}: {}", ended.stderr);
    }
}

/// Stops the threads, also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Threads call through a jump that is turned from one function to another and back.
#[test]
fn code_is_patched_while_threads_run_it() {
    const ROUNDS: u32 = 20_000;
    let mut region = region(CodeMechanism::TwoViews);
    let (one, two) = (64, 128);
    region.write(0, &jump(one)).unwrap();
    region.write(one as usize, &returns(1)).unwrap();
    region.write(two as usize, &returns(2)).unwrap();
    region.publish(0, page_size()).unwrap();
    if child::emulated() {
        // qemu before 8.1 keeps its translation of code that is changed through another address.
        // SAFETY: nobody runs it.
        unsafe {
            region.patch(0, &jump(two)).unwrap();
            region.unpublish(0, page_size()).unwrap();
        }
        region.publish(0, page_size()).unwrap();
        assert_eq!(call(&region, 0), 2);
        return;
    }
    let (stop, calls) = (AtomicBool::new(false), [AtomicU32::new(0), AtomicU32::new(0)]);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let result = call(&region, 0);
                    assert!(result == 1 || result == 2, "{result}");
                    calls[result as usize - 1].fetch_add(1, SeqCst);
                }
            });
        }
        let seen = || calls.iter().all(|calls| calls.load(SeqCst) > 0);
        // On a busy machine the threads may not run for long; with an even number of rounds the
        // jump leads where it led.
        for round in (1..).take_while(|&round| round <= ROUNDS || round % 2 == 0 || !seen()) {
            let to = if round % 2 == 0 { one } else { two };
            // SAFETY: an aligned jump becomes another one.
            unsafe { region.patch(0, &jump(to)) }.unwrap();
            // The thread that patched sees its own patch at once.
            assert_eq!(call(&region, 0), if to == one { 1 } else { 2 });
        }
    });
    assert_eq!(call(&region, 0), 1);
}

#[test]
fn a_patch_that_cannot_be_made_in_one_piece_is_refused() {
    let mut region = region(CodeMechanism::TwoViews);
    region.write(0, &returns(1)).unwrap();
    // SAFETY: nobody runs it.
    let patch = |region: &CodeRegion, at, bytes: &[u8]| unsafe { region.patch(at, bytes) };
    assert_eq!(patch(&region, 0, &[0]), Err(CodeError::NotPublished(0)));
    region.publish(0, page_size()).unwrap();
    assert_eq!(patch(&region, 6, &[0; 4]), Err(CodeError::NotOneWord));
    assert_eq!(patch(&region, 0, &[0; 9]), Err(CodeError::NotOneWord));
    assert_eq!(patch(&region, 0, &[]), Err(CodeError::NotOneWord));
    let mut switched = self::region(CodeMechanism::Switch);
    switched.write(0, &returns(1)).unwrap();
    switched.publish(0, page_size()).unwrap();
    assert_eq!(patch(&switched, 0, &returns(2)[..2]), Err(CodeError::NotWhileRunning));
}

/// Relative calls reach 2 GiB: a place within that is found although 1 GiB of neighbours is
/// taken, and where there is none that is said.
#[test]
fn near_finds_a_place_among_neighbours_or_says_there_is_none() {
    let target = near_finds_a_place_among_neighbours_or_says_there_is_none as fn() as usize;
    let near = |distance| Placement::Near { address: target, distance };
    let neighbours: Vec<Reservation> = (0..16)
        .map(|_| {
            let options = ReserveOptions::new(64 * MIB).placement(near(2 * GIB));
            Reservation::reserve(options, &CODE).unwrap()
        })
        .collect();
    assert_eq!(neighbours.iter().map(Reservation::len).sum::<usize>(), GIB);
    for mechanism in mechanisms() {
        let options = CodeOptions::new(16 * MIB).placement(near(2 * GIB)).mechanism(mechanism);
        let mut region = CodeRegion::reserve(options).unwrap();
        let start = region.address(0).addr();
        assert!(start.abs_diff(target) <= 2 * GIB, "{start:#x} from {target:#x}");
        assert!((start + region.len()).abs_diff(target) <= 2 * GIB);
        region.write(0, &returns(5)).unwrap();
        region.publish(0, page_size()).unwrap();
        assert_eq!(call(&region, 0), 5);
    }
    let refused = CodeRegion::reserve(CodeOptions::new(GIB).placement(near(GIB / 4))).unwrap_err();
    assert!(
        matches!(refused, CodeError::Memory(error) if error.kind() == ErrorKind::NoPlace),
        "{refused}"
    );
}

/// What the process has in memory is looked at in one of its own, where no other test runs.
#[cfg(target_os = "linux")]
#[test]
fn discarding_gives_the_memory_back() {
    let ended = child::run("discarding_gives_the_memory_back", "all", || {
        mechanisms().into_iter().for_each(discards);
    });
    let Some(ended) = ended else { return };
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);
}

#[cfg(target_os = "linux")]
fn discards(mechanism: CodeMechanism) {
    let len = 16 * MIB;
    let mut region = CodeRegion::reserve(CodeOptions::new(len).mechanism(mechanism)).unwrap();
    let shared = || {
        let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    };
    region.write(0, &vec![0xc3; len]).unwrap();
    region.publish(0, len).unwrap();
    let full = shared();
    // SAFETY: nobody runs it.
    unsafe { region.discard(0, len) }.unwrap();
    let left = shared();
    assert!(left + len / 2 < full, "{mechanism}: {full} bytes, then {left}");
}

/// A compiler puts one function behind the other, while the first ones run.
#[test]
fn code_is_added_to_pages_that_run_already() {
    let mut region = region(CodeMechanism::TwoViews);
    let second = page_size() - 64;
    region.write(0, &returns(1)).unwrap();
    // SAFETY: nobody runs it yet, here and below.
    let add = |region: &CodeRegion, at, bytes: &[u8]| unsafe { region.write_published(at, bytes) };
    assert_eq!(add(&region, 64, &returns(2)), Err(CodeError::NotPublished(0)));
    region.publish(0, page_size()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                assert_eq!(call(&region, 0), 1);
            }
        });
        for number in 2..50 {
            add(&region, second, &returns(number)).unwrap();
            // qemu before 8.1 keeps its translation of code that is changed through another
            // address.
            if number == 2 || !child::emulated() {
                assert_eq!(call(&region, second), i32::from(number));
            }
        }
    });
    let across = [0; 128];
    assert_eq!(add(&region, second, &across), Err(CodeError::NotPublished(page_size())));
    assert!(matches!(add(&region, MIB - 1, &across), Err(CodeError::Memory(_))));
    let mut switched = self::region(CodeMechanism::Switch);
    switched.write(0, &returns(1)).unwrap();
    switched.publish(0, page_size()).unwrap();
    assert_eq!(add(&switched, 64, &returns(2)), Err(CodeError::NotWhileRunning));
}

#[test]
fn a_region_can_be_handed_to_threads_and_shared_by_them() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(&region(CodeMechanism::Switch));
}

/// An assembler writes where the code will lie, and a linker changes what it wrote.
#[test]
fn code_is_made_in_place() {
    for mechanism in mechanisms() {
        let mut region = region(mechanism);
        let (first, second) = (returns(1), returns(2));
        let len = first.len();
        region
            .write_with(64, len, |place| {
                // SAFETY: so many bytes are writable.
                unsafe { std::slice::from_raw_parts_mut(place, len) }.copy_from_slice(&first);
            })
            .unwrap();
        region
            .write_with(64, len, |place| {
                // SAFETY: written before.
                let code = unsafe { std::slice::from_raw_parts_mut(place, len) };
                assert_eq!(code, first);
                code.copy_from_slice(&second);
            })
            .unwrap();
        region.publish(0, page_size()).unwrap();
        assert_eq!(call(&region, 64), 2);
        let again = region.write_with(64, 1, |_| unreachable!("it is published"));
        assert_eq!(again, Err(CodeError::Published(0)));
        let outside = region.write_with(MIB - 1, 2, |_| unreachable!("it is outside"));
        assert!(matches!(outside, Err(CodeError::Memory(_))), "{outside:?}");
    }
}
