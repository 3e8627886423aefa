//! What ends a process or splits it: misuse, fork, running out of memory. Each case runs in a
//! process of its own: this test program again, with the case named in the environment.
#![cfg(unix)]

use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{env, ptr, thread};

#[cfg(target_os = "linux")]
use sysmem_alloc::{HugePages, set_huge_pages};
use sysmem_alloc::{SysMem, allocate, free, reallocate, start_scavenger, statistics};

#[global_allocator]
static ALLOCATOR: SysMem = SysMem;

const CASE: &str = "SYSMEM_TEST_CASE";

/// Runs the test `name` again in a process of its own, where [`case`] does the work.
fn run_case(name: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output()
        .unwrap()
}

/// Whether this process is to do the work of a case itself.
fn is_case() -> bool {
    env::var_os(CASE).is_some()
}

fn assert_aborts_saying(name: &str, words: &[&str]) {
    let output = run_case(name);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "went on after misuse: {text}");
    let line = text.lines().find(|line| line.starts_with("sysmem: ")).unwrap_or_default();
    assert!(words.iter().all(|word| line.contains(word)), "said {text:?}");
}

#[test]
fn a_double_free_ends_the_program_with_a_line_that_says_so() {
    if is_case() {
        let block = allocate(100, 8);
        // SAFETY: none; this is what the test is about.
        unsafe {
            free(block);
            free(block);
        }
        return;
    }
    assert_aborts_saying(
        "a_double_free_ends_the_program_with_a_line_that_says_so",
        &["free of 0x", "double free"],
    );
}

#[test]
fn a_second_free_of_a_large_block_ends_the_program_with_a_line_that_says_so() {
    if is_case() {
        let block = allocate(1 << 20, 8);
        // SAFETY: none; this is what the test is about.
        unsafe {
            free(block);
            free(block);
        }
        return;
    }
    assert_aborts_saying(
        "a_second_free_of_a_large_block_ends_the_program_with_a_line_that_says_so",
        &["free of 0x", "freed before"],
    );
}

#[test]
fn a_free_of_the_stack_ends_the_program_with_a_line_that_says_so() {
    if is_case() {
        let mut local = 0u64;
        // SAFETY: none; this is what the test is about.
        unsafe { free(ptr::from_mut(&mut local).cast()) };
        return;
    }
    assert_aborts_saying(
        "a_free_of_the_stack_ends_the_program_with_a_line_that_says_so",
        &["free of 0x", "not memory of this allocator"],
    );
}

#[test]
fn a_realloc_of_the_stack_ends_the_program_with_a_line_that_says_so() {
    if is_case() {
        let mut local = 0u64;
        // SAFETY: none; this is what the test is about.
        unsafe { reallocate(ptr::from_mut(&mut local).cast(), 100, 8) };
        return;
    }
    assert_aborts_saying(
        "a_realloc_of_the_stack_ends_the_program_with_a_line_that_says_so",
        &["realloc of 0x", "not memory of this allocator"],
    );
}

#[test]
fn a_block_written_over_after_another_thread_freed_it_ends_the_program_with_a_line_that_says_so() {
    if is_case() {
        let blocks = [(); 3].map(|()| allocate(64, 8).expose_provenance());
        let local = 0_u64;
        let elsewhere = ptr::from_ref(&local).addr();
        thread::spawn(move || {
            // The first allocation gives the thread a heap.
            // SAFETY: the blocks are this thread's to free.
            unsafe {
                free(allocate(1, 1));
                blocks.into_iter().for_each(|it| free(ptr::with_exposed_provenance_mut(it)));
            }
            // SAFETY: none; this is what the test is about.
            unsafe {
                let written = ptr::with_exposed_provenance_mut::<usize>(blocks[0]);
                written.add(2).write(elsewhere);
            }
        })
        .join()
        .unwrap();
        // Until what others freed is taken in.
        for _ in 0..10_000 {
            allocate(64, 8);
        }
        return;
    }
    assert_aborts_saying(
        "a_block_written_over_after_another_thread_freed_it_ends_the_program_with_a_line_that_says_so",
        &["free of 0x", "not memory of this allocator"],
    );
}

#[test]
fn a_child_forked_while_others_allocate_can_allocate() {
    if is_case() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for size in [24, 3_000, 200_000] {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let block = vec![1u8; size];
                        assert_eq!(std::hint::black_box(&block)[size - 1], 1);
                    }
                });
            }
            for _ in 0..200 {
                // SAFETY: the child only allocates, frees and exits.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let whole =
                        (0..200usize).all(|index| vec![2u8; index * 997].len() == index * 997);
                    // SAFETY: ends the child without running what belongs to the parent.
                    unsafe { libc::_exit(if whole { 0 } else { 1 }) };
                }
                let mut status = -1;
                // SAFETY: waits for the child just made.
                unsafe { libc::waitpid(child, &mut status, 0) };
                assert_eq!(status, 0);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        println!("all children ended well");
        return;
    }
    let output = run_case("a_child_forked_while_others_allocate_can_allocate");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("all children ended well"));
}

#[test]
fn running_out_of_address_space_is_null_and_not_the_end() {
    if is_case() {
        let limit = libc::rlimit { rlim_cur: 256 << 20, rlim_max: 256 << 20 };
        // OpenBSD has no limit on address space; its limit on data counts all writable memory.
        #[cfg(not(target_os = "openbsd"))]
        let resource = libc::RLIMIT_AS;
        #[cfg(target_os = "openbsd")]
        let resource = libc::RLIMIT_DATA;
        // SAFETY: limits this process, which is the case's own.
        if unsafe { libc::setrlimit(resource, &limit) } != 0 {
            println!("went on");
            return;
        }
        let mut blocks = Vec::with_capacity(100_000);
        loop {
            let block = allocate(10_000, 8);
            if block.is_null() {
                break;
            }
            // SAFETY: the block is ours and that long.
            unsafe { block.write_bytes(1, 10_000) };
            blocks.push(block);
            assert!(blocks.len() < 100_000, "the limit does not limit");
        }
        assert!(allocate(64 << 20, 8).is_null());
        assert!(blocks.len() > 10_000, "{} blocks in 256 MiB", blocks.len());
        for block in blocks {
            // SAFETY: each is freed once.
            unsafe { free(block) };
        }
        let again = allocate(50 << 20, 8);
        assert!(!again.is_null(), "what was freed serves no other size");
        // SAFETY: the block is ours.
        unsafe { free(again) };
        println!("went on");
        return;
    }
    let output = run_case("running_out_of_address_space_is_null_and_not_the_end");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("went on"));
}

/// Whether the mapping that an address lies in asks for huge pages (`hg`, proc_pid_smaps(5)).
#[cfg(target_os = "linux")]
fn asks_for_huge_pages(address: *mut u8) -> bool {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_inside = false;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let parse = |hex| usize::from_str_radix(hex, 16).unwrap();
            is_inside = (parse(start)..parse(end)).contains(&address.addr());
        } else if is_inside && first == "VmFlags:" {
            return line.split(' ').any(|flag| flag == "hg");
        }
    }
    panic!("{address:?} is in no mapping");
}

#[test]
#[cfg(target_os = "linux")]
fn huge_pages_are_asked_for_where_the_program_wants_them() {
    if is_case() {
        let before = allocate(16 << 20, 8);
        set_huge_pages(HugePages::Advise);
        let after = allocate(16 << 20, 8);
        assert!(!before.is_null() && !asks_for_huge_pages(before));
        assert!(!after.is_null() && asks_for_huge_pages(after.wrapping_add(8 << 20)));
        println!("asked");
        return;
    }
    let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if mode.is_err() {
        eprintln!("skipped: this kernel has no huge pages");
        return;
    }
    let output = run_case("huge_pages_are_asked_for_where_the_program_wants_them");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("asked"));
}

#[test]
fn a_program_that_starts_the_scavenger_is_small_when_it_waits() {
    if is_case() {
        start_scavenger();
        // Threads that sleep with a MiB each of runs that they keep for themselves.
        for _ in 0..8 {
            thread::spawn(|| {
                drop([(); 8].map(|()| vec![1u8; 128 << 10]));
                loop {
                    thread::park();
                }
            });
        }
        for _ in 0..2 {
            let blocks: Vec<Vec<u8>> = (0..100_000).map(|_| vec![1; 1000]).collect();
            assert!(statistics().pages.in_use > 90 << 20);
            let released = statistics().pages.released;
            drop(blocks);
            // Freeing by itself would have given nearly all of it back by now.
            let now = statistics().pages;
            assert!(now.released - released < 32 << 20, "{now:?}");
            let freed = Instant::now();
            loop {
                let pages = statistics().pages;
                if pages.free_backed + pages.cached < 4 << 20 {
                    break;
                }
                assert!(freed.elapsed() < Duration::from_secs(10), "{pages:?}");
                thread::sleep(Duration::from_millis(20));
            }
        }
        println!("small");
        return;
    }
    let output = run_case("a_program_that_starts_the_scavenger_is_small_when_it_waits");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("small"));
}
