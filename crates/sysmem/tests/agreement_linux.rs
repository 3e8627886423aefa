//! The simulated Linux answers as the running one does: the same random calls on both, the same
//! results, protections, mappings and contents.
#![cfg(target_os = "linux")]

use std::ffi::CStr;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use sysmem::calls::{Calls, Files, Mincore, UnixCalls};
use sysmem::native::Kernel;
use sysmem::sim::{LazilyFreed, Settings, Simulated};
use sysmem::{Errno, PageRange, Protection};

const PAGES: usize = 24;
const PRIVATE: i32 = 0x22;
const NORESERVE: i32 = 0x4000;
const FIXED: i32 = 0x10;
const FIXED_NOREPLACE: i32 = 0x10_0000;

#[derive(Clone, Copy, Debug)]
enum Call {
    Map { protection: i32, replace: bool },
    Unmap,
    Protect { protection: i32 },
    Advise { advice: i32 },
    Residency,
    Write,
    Lock { locked: bool },
}

fn protection() -> impl Strategy<Value = i32> {
    // None, read, read and write, read and execute.
    prop::sample::select(&[0, 1, 3, 5])
}

fn shape_of_mappings() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => (protection(), any::<bool>()).prop_map(|(protection, replace)| {
            Call::Map { protection, replace }
        }),
        2 => Just(Call::Unmap),
        4 => protection().prop_map(|protection| Call::Protect { protection }),
        // MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE.
        3 => prop::sample::select(&[4, 8, 14, 15]).prop_map(|advice| Call::Advise { advice }),
        1 => Just(Call::Residency),
    ]
}

fn contents_too() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => shape_of_mappings(),
        1 => Just(Call::Advise { advice: 24 }),
        4 => Just(Call::Write),
        1 => any::<bool>().prop_map(|locked| Call::Lock { locked }),
    ]
}

type Steps = Vec<(usize, usize, Call)>;

fn steps(call: impl Strategy<Value = Call>) -> impl Strategy<Value = Steps> {
    prop::collection::vec((0..PAGES, 1..12usize, call), 1..40)
}

/// Some free pages of a process, and the table of calls that changes them.
struct Arena<'a, K> {
    kernel: &'a K,
    start: *mut u8,
    page: usize,
}

impl<K: Calls + Mincore + Files> Arena<'_, K> {
    fn at(&self, page: usize) -> *mut u8 {
        self.start.wrapping_add(page * self.page)
    }

    fn word(&self, page: usize) -> *mut u64 {
        self.at(page).cast()
    }

    fn call(&self, at: usize, npages: usize, call: Call) -> Result<Vec<u8>, Errno> {
        let (start, len) = (self.at(at), npages * self.page);
        // SAFETY: the arena is the test's own.
        let done = unsafe {
            match call {
                Call::Map { protection, replace } => {
                    let fixed = if replace { FIXED } else { FIXED_NOREPLACE };
                    let flags = PRIVATE | NORESERVE | fixed;
                    self.kernel.mmap(start, len, protection, flags).map(drop)
                }
                Call::Unmap => self.kernel.munmap(start, len),
                Call::Protect { protection } => self.kernel.mprotect(start, len, protection),
                Call::Advise { advice } => self.kernel.madvise(start, len, advice),
                Call::Residency => self.kernel.mincore(start, len, &mut vec![0; npages]),
                Call::Write | Call::Lock { .. } => Ok(()),
            }
        };
        done.map(|()| Vec::new())
    }

    /// The mappings of the arena as /proc/self/maps tells them: first page, last, protection.
    fn mappings(&self) -> Vec<(usize, usize, String)> {
        let text = self.file(c"/proc/self/maps");
        let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let first = self.start.addr();
        let inside = text.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let (start, end) = (number(start), number(end));
            let page = |address: usize| (address - first) / self.page;
            (first <= start && end <= first + PAGES * self.page)
                .then(|| (page(start), page(end), rest[..4].to_string()))
        });
        inside.collect()
    }

    fn file(&self, path: &CStr) -> String {
        let file = self.kernel.open(path).unwrap();
        let mut text = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            match self.kernel.read_at(file, &mut buffer, text.len() as u64).unwrap() {
                0 => break,
                read => text.extend_from_slice(&buffer[..read]),
            }
        }
        self.kernel.close(file);
        String::from_utf8(text).unwrap()
    }
}

/// The protection of each page of the arena.
fn by_page(mappings: &[(usize, usize, String)]) -> Vec<Option<&str>> {
    let mut pages = vec![None; PAGES];
    for (start, end, protection) in mappings {
        pages[*start..*end].fill(Some(&**protection));
    }
    pages
}

/// Runs the steps on the running kernel and on a simulated one.
fn compare(steps: &Steps, exactly: bool) -> Result<(), TestCaseError> {
    let page = Kernel.page_size();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>());
    let version = (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap());
    let has_huge_pages = std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
    let simulated = Simulated::new(Settings {
        version,
        page_size: page,
        scattered: false,
        huge_page_size: has_huge_pages.then_some(2 << 20),
        lazily_freed: LazilyFreed::Kept,
        ..Settings::real(64 << 20)
    });
    let start = simulated.space().start + (1 << 20);
    let model = Arena { kernel: &simulated, start: start as *mut u8, page };
    // The middle of a large range that was free a moment ago: nobody else maps there meanwhile.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (len, flags) = (1 << 36, PRIVATE | NORESERVE);
    // SAFETY: nothing is replaced.
    let wide = unsafe { Kernel.mmap(ptr::null_mut(), len, 0, flags) }.unwrap();
    // SAFETY: just mapped.
    unsafe { Kernel.munmap(wide, len) }.unwrap();
    let real = Arena { kernel: &Kernel, start: wide.wrapping_add(len / 2), page };
    let mut stamp = 0;
    for (index, &(at, npages, call)) in steps.iter().enumerate() {
        let npages = npages.min(PAGES - at);
        let told = |what: &str| format!("step {index}, {call:?} of {npages} pages at {at}: {what}");
        prop_assert_eq!(
            real.call(at, npages, call),
            model.call(at, npages, call),
            "{}",
            told("result")
        );
        let found = real.mappings();
        let pages = by_page(&found);
        match call {
            Call::Write if pages[at] == Some("rw-p") => {
                stamp += 1;
                // SAFETY: writable in both, if they agree; if not, the next look would tell.
                unsafe {
                    prop_assert_eq!(
                        simulated.protection_at(model.at(at).addr()),
                        Some(Protection::ReadWrite)
                    );
                    real.word(at).write_volatile(stamp);
                    model.word(at).write_volatile(stamp);
                }
            }
            // mlock(2) of what cannot be read is a story of its own.
            Call::Lock { locked }
                if pages[at..at + npages].iter().all(|page| *page == Some("rw-p")) =>
            {
                let (start, len) = (real.at(at).cast(), npages * page);
                // SAFETY: locking changes no memory.
                let done = unsafe {
                    match locked {
                        true => libc::mlock(start, len),
                        false => libc::munlock(start, len),
                    }
                };
                prop_assert_eq!(done, 0);
                let range = PageRange::new(model.at(at), len);
                prop_assert_eq!(simulated.lock_memory(range, locked), Ok(()));
            }
            _ => {}
        }
        let expected = model.mappings();
        if exactly {
            prop_assert_eq!(&found, &expected, "{}", told("mappings"));
        }
        // Where pages were written to, the kernel may keep neighbours apart that agree.
        prop_assert_eq!(by_page(&found), by_page(&expected), "{}", told("protections"));
        for (index, page) in by_page(&found).into_iter().enumerate() {
            if page.is_some_and(|page| page.starts_with('r')) {
                // SAFETY: readable in both, as was just seen.
                let (found, expected) = unsafe {
                    (real.word(index).read_volatile(), model.word(index).read_volatile())
                };
                prop_assert_eq!(found, expected, "{}", told("contents"));
            }
        }
    }
    // SAFETY: the arena is the test's own.
    unsafe { Kernel.munmap(real.start, PAGES * page) }.unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mappings_split_and_join_as_the_running_kernel_has_them(steps in steps(shape_of_mappings())) {
        compare(&steps, true)?;
    }

    #[test]
    fn protections_and_contents_are_those_of_the_running_kernel(steps in steps(contents_too())) {
        compare(&steps, false)?;
    }
}
