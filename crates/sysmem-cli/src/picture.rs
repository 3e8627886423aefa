//! `sysmem map --picture`: the page heap of a running process as a picture.

use crate::figures::{Unpublished, monotonic_ns, published};
use crate::page::heat_map;
use crate::refusal::{Refusal, cannot_write};
use crate::report::HeapMap;
use crate::stat::{denied, gone, has_no_memory, memoryless};
use std::path::Path;

/// Writes the picture of the heap of a process.
pub fn write(pid: u32, file: &Path) -> Result<(), Refusal> {
    let image = published(pid).map_err(|why| refused(pid, &why))?;
    let Some(map) = HeapMap::new(image.last_picture.as_ref(), 0) else {
        return Err(Refusal::unseen(format!(
            "process {pid} has not drawn its heap: it is smaller than 4 MiB, or too many other \
             processes of the run have drawn theirs"
        )));
    };
    let age = monotonic_ns().saturating_sub(map.time_ns);
    let picture = heat_map::standalone(&map, &image.name, pid, age);
    std::fs::write(file, picture)
        .map_err(|error| Refusal::unseen(cannot_write("the picture", file, &error)))
}

fn refused(pid: u32, why: &Unpublished) -> Refusal {
    Refusal::unseen(match why {
        Unpublished::Gone => return gone(pid),
        Unpublished::Denied => return denied(pid),
        Unpublished::NotRun if has_no_memory(pid) => return memoryless(pid),
        Unpublished::NotRun => format!(
            "process {pid} draws no picture of its heap: it was not started by `sysmem run`. Only \
             the allocator knows which pages are in use; `sysmem run -- PROGRAM` starts a program \
             on it, and `sysmem map {pid}` shows what the kernel knows of this one"
        ),
        Unpublished::Orphaned => format!(
            "the `sysmem run` that started process {pid} has ended, and with it the file in which \
             the process drew its heap"
        ),
        Unpublished::Silent => format!(
            "process {pid} was started under `sysmem run` and publishes nothing: it is linked \
             statically, or an older allocator was preloaded"
        ),
    })
}
