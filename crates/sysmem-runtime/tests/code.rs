//! Machine code that is written, published, run, patched under threads that run it, and given
//! back; and systems that forbid it.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod child;

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use sysmem::os::linux::Linux;
use sysmem::os::{Inheritance, PageResidency, Policy};
use sysmem::sim::{Settings, Simulated};
use sysmem::{
    Account, CodeMemory, Errno, Error, ErrorKind, GiveBack, MemoryObject, MemoryObjects, Native,
    Operation, Os, PageRange, Placement, Protection, Registry, Reservation, ReserveOptions,
    UnusedContract, page_size,
};
use sysmem_runtime::{CodeError, CodeMechanism, CodeOptions, CodeRegion};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
static CODE: Account = Account::new("test code");

/// A function that returns a number.
fn returns(number: u16) -> Vec<u8> {
    if cfg!(target_arch = "x86_64") {
        // mov eax, number; ret
        [&[0xb8][..], &u32::from(number).to_le_bytes(), &[0xc3]].concat()
    } else {
        // mov w0, number; ret
        [0x5280_0000 | u32::from(number) << 5, 0xd65f_03c0].map(u32::to_le_bytes).concat()
    }
}

/// A jump that goes `distance` bytes on.
fn jump(distance: u32) -> Vec<u8> {
    if cfg!(target_arch = "x86_64") {
        // jmp, counted from behind it
        [&[0xe9][..], &(distance - 5).to_le_bytes()].concat()
    } else {
        (0x1400_0000 | (distance / 4)).to_le_bytes().to_vec()
    }
}

fn call<O: CodeMemory>(region: &CodeRegion<O>, offset: usize) -> i32 {
    // SAFETY: the tests published a function there.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(region.address(offset)) };
    function()
}

fn region(mechanism: CodeMechanism) -> CodeRegion {
    let region = CodeRegion::reserve(CodeOptions::new(MIB).mechanism(mechanism)).unwrap();
    assert_eq!(region.mechanism(), mechanism);
    assert_eq!(region.refusals().count(), 0);
    region
}

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
    for mechanism in [CodeMechanism::TwoViews, CodeMechanism::Switch] {
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

#[test]
fn no_address_is_ever_writable_and_executable() {
    for mechanism in [CodeMechanism::TwoViews, CodeMechanism::Switch] {
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
        assert_eq!(ended.signal, Some(libc::SIGSEGV), "{which}: {}", ended.stderr);
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
    const LAST: u32 = 20_000;
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
        for round in 1..=LAST {
            let to = if round % 2 == 0 { one } else { two };
            // SAFETY: an aligned jump becomes another one.
            unsafe { region.patch(0, &jump(to)) }.unwrap();
            // The thread that patched sees its own patch at once.
            assert_eq!(call(&region, 0), if to == one { 1 } else { 2 });
        }
    });
    assert!(calls.iter().all(|calls| calls.load(SeqCst) > 0), "{calls:?}");
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
    for mechanism in [CodeMechanism::TwoViews, CodeMechanism::Switch] {
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

#[test]
fn discarding_gives_the_memory_back() {
    for mechanism in [CodeMechanism::TwoViews, CodeMechanism::Switch] {
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
}

#[test]
fn a_kernel_without_memory_objects_switches_and_says_why() {
    let os = Linux::new(Simulated::new(Settings::heap(16 * MIB)));
    let options = CodeOptions::new(MIB).placement(Placement::Any);
    let mut region = CodeRegion::reserve_in(os, options, &CODE).unwrap();
    assert_eq!(region.mechanism(), CodeMechanism::Switch);
    let refusals: Vec<_> = region.refusals().collect();
    let refused: Vec<_> = refusals.iter().map(|refusal| refusal.mechanism).collect();
    assert_eq!(refused, [CodeMechanism::TwoViews, CodeMechanism::PerThread]);
    assert!(refusals.iter().all(|refusal| refusal.kind == ErrorKind::NotSupported));
    region.write(10, &[1; 10_000]).unwrap();
    region.publish(0, 3 * 4096).unwrap();
    // SAFETY: nobody runs it.
    unsafe { region.discard(0, MIB) }.unwrap();
}

/// A system that never lets memory that was writable be executed, as SELinux without `execmem`
/// and PaX with MPROTECT do; and, if it is told to, not even views of objects.
#[derive(Clone)]
struct Hardened<O> {
    os: O,
    objects: bool,
}

macro_rules! forward {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(unsafe fn $name(&self, $($argument: $type),*) -> $result {
            // SAFETY: the caller's promise.
            unsafe { self.os.$name($($argument),*) }
        })*
    };
}

// SAFETY: it only refuses more.
unsafe impl<O: Os> Os for Hardened<O> {
    fn page_size(&self) -> usize {
        self.os.page_size()
    }
    fn huge_page_size(&self) -> Option<usize> {
        self.os.huge_page_size()
    }
    fn unused_contract(&self, how: GiveBack) -> UnusedContract {
        self.os.unused_contract(how)
    }
    fn supports(&self, policy: Policy) -> bool {
        self.os.supports(policy)
    }
    fn registry(&self) -> &Registry {
        self.os.registry()
    }
    fn alloc(&self, len: usize) -> Result<NonNull<u8>, Error> {
        self.os.alloc(len)
    }
    fn reserve(&self, options: &ReserveOptions) -> Result<NonNull<u8>, Error> {
        self.os.reserve(options)
    }
    unsafe fn protect(&self, range: PageRange, protection: Protection) -> Result<(), Error> {
        if protection == Protection::ReadExecute {
            let kind = ErrorKind::System(Errno(13));
            return Err(Error::new(Operation::Protect, range.start.addr(), range.len, kind));
        }
        // SAFETY: the caller's promise.
        unsafe { self.os.protect(range, protection) }
    }
    forward! {
        fn map(range: PageRange, protection: Protection, policy: Policy) -> Result<(), Error>;
        fn used(range: PageRange, protection: Protection) -> Result<(), Error>;
        fn unused(range: PageRange, protection: Protection, how: GiveBack, policy: Policy) -> Result<(), Error>;
        fn fault(range: PageRange, policy: Policy) -> Result<(), Error>;
        fn free(range: PageRange) -> Result<(), Error>;
        fn huge_page(range: PageRange) -> Result<(), Error>;
        fn no_huge_page(range: PageRange) -> Result<(), Error>;
        fn collapse(range: PageRange) -> Result<(), Error>;
        fn set_inheritance(range: PageRange, inheritance: Inheritance) -> Result<(), Error>;
        fn set_dumped(range: PageRange, dumped: bool) -> Result<(), Error>;
        fn name(range: PageRange, name: &CStr) -> Result<(), Error>;
    }
    fn residency(&self, range: PageRange, pages: &mut [PageResidency]) -> Result<(), Error> {
        self.os.residency(range, pages)
    }
    fn monotonic_time(&self) -> Duration {
        self.os.monotonic_time()
    }
    fn thread_cpu_time(&self) -> Duration {
        self.os.thread_cpu_time()
    }
    fn park(&self, word: &AtomicU32, while_equal: u32, timeout: Option<Duration>) {
        self.os.park(word, while_equal, timeout);
    }
    fn wake(&self, word: &AtomicU32, count: u32) {
        self.os.wake(word, count);
    }
}

impl<O: CodeMemory> CodeMemory for Hardened<O> {}

// SAFETY: it only refuses more.
unsafe impl<O: MemoryObjects> MemoryObjects for Hardened<O> {
    fn create_object(&self, len: usize) -> Result<MemoryObject, Error> {
        self.os.create_object(len)
    }
    fn close_object(&self, object: MemoryObject) {
        self.os.close_object(object);
    }
    unsafe fn discard_object(
        &self,
        object: &MemoryObject,
        offset: usize,
        len: usize,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.os.discard_object(object, offset, len) }
    }
    fn reserve_view(
        &self,
        options: &ReserveOptions,
        object: &MemoryObject,
    ) -> Result<NonNull<u8>, Error> {
        self.os.reserve_view(options, object)
    }
    unsafe fn map_object(
        &self,
        range: PageRange,
        protection: Protection,
        object: &MemoryObject,
        offset: usize,
    ) -> Result<(), Error> {
        if protection == Protection::ReadExecute && !self.objects {
            let kind = ErrorKind::System(Errno(13));
            return Err(Error::new(Operation::MapObject, range.start.addr(), range.len, kind));
        }
        // SAFETY: the caller's promise.
        unsafe { self.os.map_object(range, protection, object, offset) }
    }
}

#[test]
fn a_hardened_system_is_served_by_what_it_allows_or_told_what_it_forbids() {
    let options = CodeOptions::new(MIB);
    let os = Hardened { os: Native::NEW, objects: true };
    let mut region = CodeRegion::reserve_in(os, options, &CODE).unwrap();
    assert_eq!(region.mechanism(), CodeMechanism::TwoViews);
    region.write(0, &returns(3)).unwrap();
    region.publish(0, page_size()).unwrap();
    assert_eq!(call(&region, 0), 3);

    // In a process of its own, where nobody else opens files.
    let test = "a_hardened_system_is_served_by_what_it_allows_or_told_what_it_forbids";
    let ended = child::run(test, "refused", || {
        let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open_files();
        let os = Hardened { os: Native::NEW, objects: false };
        let refused = CodeRegion::reserve_in(os, options, &CODE).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, CodeError::NoMechanism([Some(_), Some(_), Some(_)])), "{text}");
        assert!(
            text.contains("two views of one memory object: map object: the system refused"),
            "{text}"
        );
        assert!(text.contains("switching by protection: protect: the system refused"), "{text}");
        assert_eq!(open_files(), before, "an object stayed open");
    });
    let Some(ended) = ended else { return };
    assert_eq!(ended.signal, None);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}
