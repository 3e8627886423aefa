//! Tables: the kernel's figures against ours, the processes of the run, what must be known.

use super::{memory, titled, wide};
use crate::report::{Ending, Heap, Kernel, Process, Report, Source};
use crate::words::{bytes, grouped, printable};
use maud::{Markup, html};

/// How many processes beside the program are in the page; `--json` has them all.
pub const PROCESSES: usize = 40;

pub fn kernel(report: &Report) -> Markup {
    let (Some(kernel), Some(heap)) = (&report.program.kernel, &report.program.heap) else {
        return html! {};
    };
    let when = match report.program.ending {
        Ending::Exited => "when the program ended",
        Ending::Unknown => "when the program was last seen",
    };
    let reading = html! { "Two counts of the same memory, " (when) "." };
    let tables = html! {
        div.beside { (kernel_table(kernel)) (heap_table(heap)) }
    };
    titled("counts", "What the kernel counts, and what we count", reading, tables)
}

type Row = (&'static str, u64, &'static str);

fn kernel_table(kernel: &Kernel) -> Markup {
    figures(
        "the kernel",
        &[
            ("resident", kernel.resident_bytes, "physical memory"),
            ("  of files", kernel.resident_file_bytes, "the program, its libraries"),
            ("  shared", kernel.resident_shared_bytes, "shared memory"),
            ("  anonymous", kernel.resident_anonymous_bytes, "heap, stacks, data"),
            ("    in huge pages", kernel.huge_page_bytes, ""),
            ("    lazily freed", kernel.lazily_freed_bytes, "the kernel may take it"),
            ("swapped out", kernel.swapped_bytes, ""),
            ("page tables", kernel.page_table_bytes, ""),
            ("address space", kernel.virtual_bytes, ""),
        ],
    )
}

fn heap_table(heap: &Heap) -> Markup {
    figures(
        "the allocator",
        &[
            ("page heap in use", heap.in_use_bytes, "objects, caches for them"),
            ("  free", heap.free_bytes, "has memory, ready for use"),
            ("  given back", heap.given_back_bytes, "has none"),
            ("    ever", heap.released_bytes, "added up"),
            ("    by the scavenger", heap.scavenger_released_bytes, "free pages"),
            ("metadata", heap.metadata_bytes, ""),
            ("ready", heap.ready_bytes, "may be touched"),
            ("  the most ever", heap.peak_ready_bytes, ""),
            ("prepared", heap.prepared_bytes, ""),
            ("reserved", heap.reserved_bytes, "address space that faults"),
            ("ever obtained", heap.obtained_bytes, "added up"),
        ],
    )
}

fn figures(title: &str, rows: &[Row]) -> Markup {
    html! {
        table {
            thead { tr { th scope="col" colspan="3" { (title) } } }
            tbody {
                @for (name, size, remark) in rows {
                    @let deep = (name.len() - name.trim_start().len()) / 2;
                    tr {
                        th.indent scope="row" style={ "--deep:" (deep) } { (name.trim_start()) }
                        td.figure { (bytes(*size)) }
                        td.remark { (remark) }
                    }
                }
            }
        }
    }
}

pub fn processes(report: &Report) -> Markup {
    let others = &report.descendants;
    if others.is_empty() {
        return html! {};
    }
    let reading = html! {
        "The program first, then the processes that it started, greatest peak first. The lines show \
         resident memory over the time of the run, all on one scale."
    };
    let shown: Vec<&Process> =
        std::iter::once(&report.program).chain(others.iter().take(PROCESSES)).collect();
    let most = shown.iter().map(|process| process.peak_resident.bytes).max().unwrap_or(1);
    let end = report.time.wall_ns;
    let table = html! {
        table.processes {
            thead {
                tr {
                    th scope="col" { "process" }
                    th.figure scope="col" { "pid" }
                    th.figure scope="col" { "peak" }
                    th.figure scope="col" { "last" }
                    th.figure scope="col" { "allocations" }
                    th.figure scope="col" { "asked for" }
                    th scope="col" { "resident" }
                }
            }
            tbody {
                @for process in &shown { (row(process, end, most)) }
            }
        }
    };
    let content = html! {
        (wide(table))
        @if others.len() > PROCESSES {
            p.aside { "And " (grouped((others.len() - PROCESSES) as u64)) " more." }
        }
    };
    titled("processes", "Processes", reading, content)
}

fn row(process: &Process, end: u64, most: u64) -> Markup {
    let unknown = |resident: crate::report::Resident| match resident.source {
        Source::None => "–".to_owned(),
        _ => bytes(resident.bytes),
    };
    let heap = process.heap.as_ref();
    html! {
        tr {
            th scope="row" { (printable(&process.name)) }
            td.figure { (process.pid) }
            td.figure { (unknown(process.peak_resident)) }
            td.figure { (unknown(process.final_resident)) }
            td.figure { (heap.map_or("–".to_owned(), |heap| grouped(heap.allocations))) }
            td.figure { (heap.map_or("–".to_owned(), |heap| bytes(heap.requested_bytes))) }
            td { (memory::small(&process.course.points, end, most)) }
        }
    }
}

pub fn notes(report: &Report) -> Markup {
    html! {
        footer {
            @if !report.notes.is_empty() {
                h2 { "Notes" }
                @for note in &report.notes { p.note { (printable(note)) } }
            }
            p {
                "Resident memory was sampled from outside, often at first and ten times a second \
                 later; the allocator's figures are what the program published. The figures of this \
                 page are in it as JSON, too."
            }
            p { "Allocator: " code { (report.library) } }
        }
    }
}
