//! `sysmem map`: what the address space of a process is made of.

use crate::figures::{Image, monotonic_ns, published};
use crate::refusal::{Refusal, why};
use crate::report::{HeapCell, HeapMap};
use crate::stat::{VERSION, memoryless, name_of, refused};
use crate::{MapArguments, picture, words};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use sysmem::Error;
pub use sysmem::usage::Group as Kind;
use sysmem::usage::{self, Detail, Mapping, MappingKind, Process};
use sysmem_alloc::figures::ClassFigures;

/// How many parts of a group the text shows; the JSON has them all.
const PARTS_SHOWN: usize = 8;

/// The address space of a process.
#[derive(Serialize)]
pub struct Map {
    pub version: u32,
    pub pid: u32,
    pub name: String,
    pub total: Sizes,
    /// Largest first.
    pub groups: Vec<Group>,
    /// What the process says of its page heap; null where it publishes nothing.
    pub page_heap: Option<PageHeap>,
}

/// The page heap of a process, as the process itself knows it.
#[derive(Clone, Serialize)]
pub struct PageHeap {
    /// How long ago the process said so.
    pub age_ns: u64,
    pub in_use_bytes: u64,
    /// Backed by memory, ready for use.
    pub free_bytes: u64,
    pub given_back_bytes: u64,
    /// Address space in reserve.
    pub unmapped_bytes: u64,
    /// Of what is in use, blocks that the program holds: of size classes, and large ones, which are
    /// whole pages. The rest is free blocks between them.
    pub small_blocks_bytes: u64,
    pub large_blocks_bytes: u64,
}

impl PageHeap {
    /// `None` where the process does not run under `sysmem run`, or has not drawn its heap.
    fn published(image: &Image) -> Option<PageHeap> {
        let map = HeapMap::new(image.last_picture.as_ref(), 0)?;
        Some(PageHeap::of(&map, &image.classes, monotonic_ns()))
    }

    /// All of it, part by part, in words.
    fn parts(&self) -> [(u64, &'static str); 6] {
        let blocks = self.small_blocks_bytes + self.large_blocks_bytes;
        [
            (self.small_blocks_bytes, "in use, small blocks"),
            (self.large_blocks_bytes, "in use, large blocks"),
            // Blocks are counted at another moment than pages.
            (self.in_use_bytes.saturating_sub(blocks), "in use, free between blocks"),
            (self.free_bytes, "free, backed by memory"),
            (self.given_back_bytes, "given back"),
            (self.unmapped_bytes, "in reserve"),
        ]
    }

    fn of(map: &HeapMap, classes: &[ClassFigures], now_ns: u64) -> PageHeap {
        let bytes = |count: fn(&HeapCell) -> u16| {
            map.cells.iter().map(|cell| u64::from(count(cell)) * map.page_bytes).sum()
        };
        let held = |class: &ClassFigures| class.allocated_bytes.saturating_sub(class.freed_bytes);
        let (large, small) = classes
            .split_last()
            .map_or((0, 0), |(large, small)| (held(large), small.iter().map(held).sum()));
        PageHeap {
            age_ns: now_ns.saturating_sub(map.time_ns),
            in_use_bytes: bytes(|cell| cell.in_use),
            free_bytes: bytes(|cell| cell.free),
            given_back_bytes: bytes(|cell| cell.given_back),
            unmapped_bytes: bytes(|cell| cell.unmapped),
            small_blocks_bytes: small,
            large_blocks_bytes: large,
        }
    }
}

/// Whose the address space of a process is, as the process itself says: where each of its
/// reservations lies and on which account it is, lowest address first.
struct Owners(Vec<(Range<usize>, String)>);

impl Owners {
    /// The accounts of a mapping. The kernel makes one mapping of neighbours that are alike: then
    /// there are several, or memory of the program besides.
    fn of(&self, mapping: &Mapping<'_>) -> Option<String> {
        let after = self.0.partition_point(|(range, _)| range.end <= mapping.start);
        let mut names: Vec<&str> = Vec::new();
        let (mut at, mut others) = (mapping.start, false);
        for (range, name) in &self.0[after..] {
            if range.start >= mapping.end {
                break;
            }
            others |= range.start > at;
            at = range.end;
            if !names.contains(&&name[..]) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return None;
        }
        if others || at < mapping.end {
            names.push("other memory");
        }
        Some(names.join(" and "))
    }
}

/// Mappings of one kind.
#[derive(Clone, Serialize)]
pub struct Group {
    #[serde(serialize_with = "key")]
    pub kind: Kind,
    #[serde(flatten)]
    pub sizes: Sizes,
    /// By file or name, largest first; empty where nothing has a name.
    pub parts: Vec<Part>,
}

fn key<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.key())
}

#[derive(Clone, Serialize)]
pub struct Part {
    pub name: String,
    #[serde(flatten)]
    pub sizes: Sizes,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    pub mappings: u64,
    pub virtual_bytes: u64,
    pub resident_bytes: u64,
    pub proportional_bytes: u64,
    pub private_bytes: u64,
    pub swapped_bytes: u64,
    pub huge_bytes: u64,
    pub lazily_freed_bytes: u64,
    /// Of memory that may be written to and is private: neither resident nor swapped out. Never
    /// touched or given back; the kernel does not know which.
    pub without_memory_bytes: u64,
}

impl Sizes {
    fn of(mapping: &Mapping<'_>) -> Sizes {
        let pages = &mapping.pages;
        let sizes = Sizes {
            mappings: 1,
            virtual_bytes: mapping.len() as u64,
            resident_bytes: pages.resident.unwrap_or(0),
            proportional_bytes: pages.proportional.unwrap_or(0),
            private_bytes: pages.private.unwrap_or(0),
            swapped_bytes: pages.swapped.unwrap_or(0),
            huge_bytes: pages.huge.unwrap_or(0),
            lazily_freed_bytes: pages.lazily_freed.unwrap_or(0),
            without_memory_bytes: 0,
        };
        let backed = sizes.resident_bytes + sizes.swapped_bytes + pages.reserved_huge.unwrap_or(0);
        let memory = matches!(
            mapping.kind,
            MappingKind::Named | MappingKind::Anonymous | MappingKind::ProgramBreak
        );
        let without = if memory && mapping.writable && mapping.shared == Some(false) {
            sizes.virtual_bytes.saturating_sub(backed)
        } else {
            0
        };
        Sizes { without_memory_bytes: without, ..sizes }
    }

    fn add(&mut self, other: &Sizes) {
        let Sizes {
            mappings,
            virtual_bytes,
            resident_bytes,
            proportional_bytes,
            private_bytes,
            swapped_bytes,
            huge_bytes,
            lazily_freed_bytes,
            without_memory_bytes,
        } = other;
        self.mappings += mappings;
        self.virtual_bytes += virtual_bytes;
        self.resident_bytes += resident_bytes;
        self.proportional_bytes += proportional_bytes;
        self.private_bytes += private_bytes;
        self.swapped_bytes += swapped_bytes;
        self.huge_bytes += huge_bytes;
        self.lazily_freed_bytes += lazily_freed_bytes;
        self.without_memory_bytes += without_memory_bytes;
    }

    /// What is large: memory first, address space where that is equal.
    fn rank(&self) -> std::cmp::Reverse<(u64, u64)> {
        std::cmp::Reverse((self.resident_bytes + self.swapped_bytes, self.virtual_bytes))
    }
}

pub fn map(arguments: &MapArguments) -> Result<(), Refusal> {
    let pid = arguments.pid;
    if let Some(file) = &arguments.picture {
        return picture::write(pid, file);
    }
    let map = look(pid).map_err(|error| refused(Some(pid), &error))?;
    if map.groups.is_empty() {
        return Err(memoryless(pid));
    }
    let page = match arguments.json {
        true => serde_json::to_string_pretty(&map).unwrap_or_default() + "\n",
        false => human(&map),
    };
    let written = io::stdout().lock().write_all(page.as_bytes());
    written.map_err(|error| Refusal::unseen(format!("cannot write the map: {}", why(&error))))
}

/// The address space of a process as it is now.
pub fn look(pid: u32) -> Result<Map, Error> {
    let mut gathered = Gathered::default();
    let image = published(pid).ok();
    let heap = image.as_ref().and_then(PageHeap::published);
    let owners = Owners(image.map(|image| image.reservations).unwrap_or_default());
    // Half of it is for names, and a path may have 4 KiB.
    let mut buffer = vec![0; 32 << 10];
    usage::mappings(Process::Id(pid), Detail::Pages, &mut buffer, &mut |mapping| {
        let owner = match mapping.kind {
            MappingKind::Anonymous => owners.of(mapping),
            _ => None,
        };
        match &owner {
            Some(owner) => {
                let (kind, name) = (MappingKind::Named, owner.as_bytes());
                gathered.add(&Mapping { kind, name, ..*mapping });
            }
            None => gathered.add(mapping),
        }
    })?;
    Ok(Map { page_heap: heap, ..gathered.into_map(pid, name_of(pid)) })
}

/// What was seen so far, by kind and name.
#[derive(Default)]
struct Gathered(BTreeMap<Kind, BTreeMap<Vec<u8>, Sizes>>);

impl Gathered {
    fn add(&mut self, mapping: &Mapping<'_>) {
        let parts = self.0.entry(Kind::of(mapping)).or_default();
        parts.entry(mapping.name.to_vec()).or_default().add(&Sizes::of(mapping));
    }

    fn into_map(self, pid: u32, name: String) -> Map {
        let mut total = Sizes::default();
        let mut groups: Vec<Group> = self
            .0
            .into_iter()
            .map(|(kind, parts)| {
                let mut sizes = Sizes::default();
                parts.values().for_each(|part| sizes.add(part));
                total.add(&sizes);
                let mut parts: Vec<Part> = parts
                    .into_iter()
                    .filter(|(name, _)| !name.is_empty())
                    .map(|(name, sizes)| Part {
                        name: String::from_utf8_lossy(&name).into_owned(),
                        sizes,
                    })
                    .collect();
                parts.sort_by_key(|part| part.sizes.rank());
                Group { kind, sizes, parts }
            })
            .collect();
        groups.sort_by_key(|group| group.sizes.rank());
        Map { version: VERSION, pid, name, total, groups, page_heap: None }
    }
}

/// A column of the text: its heading and its figure.
type Column = (&'static str, fn(&Sizes) -> u64);

const COLUMNS: [Column; 7] = [
    ("resident", |sizes| sizes.resident_bytes),
    ("proportional", |sizes| sizes.proportional_bytes),
    ("swapped", |sizes| sizes.swapped_bytes),
    ("huge pages", |sizes| sizes.huge_bytes),
    ("lazily freed", |sizes| sizes.lazily_freed_bytes),
    ("no memory", |sizes| sizes.without_memory_bytes),
    ("address space", |sizes| sizes.virtual_bytes),
];

fn human(map: &Map) -> String {
    // A column of nothing but zeros is left out.
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| column.1(&map.total) > 0).collect();
    let mut page = format!("process {}, {}\n\n", map.pid, words::printable(&map.name));
    for (heading, _) in &columns {
        page += &format!("{heading:>15}");
    }
    page += &format!("{:>11}\n", "mappings");
    row(&mut page, &columns, &map.total, "all");
    for group in &map.groups {
        page.push('\n');
        row(&mut page, &columns, &group.sizes, group.kind.title());
        let parts = group.parts.iter().filter(|part| {
            group.kind == Kind::Named || part.sizes.resident_bytes + part.sizes.swapped_bytes > 0
        });
        // A group of one part that the kernel named says no more by that name.
        let shown: Vec<&Part> = match &group.parts[..] {
            [part] if part.name.starts_with('[') => Vec::new(),
            _ => parts.take(PARTS_SHOWN).collect(),
        };
        for part in &shown {
            let name = format!("  {}", words::printable(&part.name));
            row(&mut page, &columns, &part.sizes, &name);
        }
        if !shown.is_empty() && group.parts.len() > shown.len() {
            let more = group.parts.len() - shown.len();
            let width = columns.len() * 15 + 11;
            page += &format!("{:width$}     and {more} more; --json has them all\n", "");
        }
    }
    if let Some(heap) = &map.page_heap {
        let age = words::duration(heap.age_ns);
        page += &format!("\npage heap, as the program counted it {age} ago\n");
        for (size, what) in heap.parts() {
            page += &format!("{:>15}   {what}\n", size_or_dash(size));
        }
    }
    if map.total.without_memory_bytes > 0 {
        page += "\nno memory: private and writable, never touched or given back\n";
    }
    page
}

fn row(page: &mut String, columns: &[&Column], sizes: &Sizes, name: &str) {
    for (_, figure) in columns {
        *page += &format!("{:>15}", size_or_dash(figure(sizes)));
    }
    *page += &format!("{:>11}   {name}\n", words::grouped(sizes.mappings));
}

fn size_or_dash(size: u64) -> String {
    match size {
        0 => "-".to_owned(),
        size => words::bytes(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sysmem::usage::PageFigures;

    fn mapping(
        kind: MappingKind,
        name: &[u8],
        pages: u64,
        resident: u64,
        writable: bool,
    ) -> Mapping<'_> {
        Mapping {
            start: 0x1000,
            end: 0x1000 + (pages as usize) * 4096,
            readable: writable,
            writable,
            executable: false,
            shared: Some(false),
            offset: 0,
            kind,
            name,
            pages: PageFigures { resident: Some(resident * 4096), ..PageFigures::default() },
        }
    }

    fn gather(mappings: &[Mapping<'_>]) -> Map {
        let mut gathered = Gathered::default();
        mappings.iter().for_each(|mapping| gathered.add(mapping));
        gathered.into_map(7, "program".to_owned())
    }

    #[test]
    fn groups_and_parts_come_largest_first() {
        let map = gather(&[
            mapping(MappingKind::File, b"/lib/a", 10, 2, false),
            mapping(MappingKind::File, b"/lib/b", 10, 5, false),
            mapping(MappingKind::Named, b"page heap", 100, 60, true),
            mapping(MappingKind::Named, b"metadata", 20, 10, true),
            mapping(MappingKind::File, b"/lib/a", 10, 4, false),
            mapping(MappingKind::Anonymous, b"", 1000, 0, false),
        ]);
        let groups: Vec<_> = map
            .groups
            .iter()
            .map(|group| (group.kind, group.sizes.mappings, group.sizes.resident_bytes / 4096))
            .collect();
        assert_eq!(groups, [(Kind::Named, 2, 70), (Kind::Files, 3, 11), (Kind::NoAccess, 1, 0)]);
        let files: Vec<_> = map.groups[1].parts.iter().map(|part| &part.name[..]).collect();
        assert_eq!(files, ["/lib/a", "/lib/b"]);
        assert_eq!(map.total.virtual_bytes, 1150 * 4096);
        assert!(map.groups[2].parts.is_empty());
    }

    #[test]
    fn a_mapping_is_of_all_the_accounts_that_have_a_part_of_it() {
        let owners = Owners(vec![
            (0x1000..0x3000, "page heap".to_owned()),
            (0x3000..0x4000, "metadata".to_owned()),
            (0x8000..0x9000, "page heap".to_owned()),
        ]);
        let of = |start: usize, npages: u64| {
            let mapping = mapping(MappingKind::Anonymous, b"", npages, 0, true);
            owners.of(&Mapping { start, end: start + mapping.len(), ..mapping })
        };
        assert_eq!(of(0x1000, 1).as_deref(), Some("page heap"));
        assert_eq!(of(0x2000, 2).as_deref(), Some("page heap and metadata"));
        assert_eq!(of(0x8000, 1).as_deref(), Some("page heap"));
        for (start, npages) in [(0, 2), (0x8000, 2), (0x7000, 3)] {
            let expected = Some("page heap and other memory");
            assert_eq!(of(start, npages).as_deref(), expected, "{start:#x}, {npages}");
        }
        assert_eq!(of(0x3000, 6).as_deref(), Some("metadata and page heap and other memory"));
        for (start, npages) in [(0, 1), (0x4000, 4), (0x9000, 1)] {
            assert_eq!(of(start, npages), None, "{start:#x}, {npages}");
        }
    }

    #[test]
    fn the_page_heap_is_the_sum_of_its_cells() {
        let cell = |address, in_use, given_back, unmapped| HeapCell {
            address,
            in_use,
            free: 1,
            given_back,
            unmapped,
        };
        let cells = vec![
            cell(0x20_0000, 200, 55, 0),
            cell(0x40_0000, 9, 0, 90),
            cell(0x80_0000, 0, 0, 255),
        ];
        let class = |allocated_bytes, freed_bytes| ClassFigures {
            allocated_bytes,
            freed_bytes,
            ..ClassFigures::default()
        };
        let classes = [class(100, 20), class(7, 0), class(5000, 1000)];
        let map = HeapMap { time_ns: 3, page_bytes: 8192, huge_pages: 3, cells };
        let heap = PageHeap::of(&map, &classes, 10);
        assert_eq!(heap.age_ns, 7);
        assert_eq!(heap.in_use_bytes, 209 * 8192);
        assert_eq!((heap.free_bytes, heap.given_back_bytes), (3 * 8192, 55 * 8192));
        assert_eq!(heap.unmapped_bytes, 345 * 8192);
        assert_eq!((heap.small_blocks_bytes, heap.large_blocks_bytes), (87, 4000));
    }

    #[test]
    fn only_private_writable_memory_can_be_without_memory() {
        let sizes = |mapping: &Mapping<'_>| Sizes::of(mapping).without_memory_bytes / 4096;
        let heap = mapping(MappingKind::Named, b"heap", 100, 60, true);
        assert_eq!(sizes(&heap), 40);
        assert_eq!(sizes(&Mapping { shared: Some(true), ..heap }), 0);
        assert_eq!(sizes(&mapping(MappingKind::Anonymous, b"", 100, 0, false)), 0);
        assert_eq!(sizes(&mapping(MappingKind::File, b"/data", 100, 60, true)), 0);
        let swapped = PageFigures { swapped: Some(30 * 4096), ..heap.pages };
        assert_eq!(sizes(&Mapping { pages: swapped, ..heap }), 10);
    }

    #[test]
    fn the_text_is_plain_and_aligned_whatever_the_names() {
        let names: Vec<String> = (0..20).map(|n| format!("/lib/\x1b[31m{n}")).collect();
        let mappings: Vec<_> = names
            .iter()
            .map(|name| mapping(MappingKind::File, name.as_bytes(), 10, 5, false))
            .collect();
        let text = human(&gather(&mappings));
        assert!(!text.contains(|sign: char| sign.is_control() && sign != '\n'), "{text:?}");
        assert!(text.contains("and 12 more"), "{text}");
        assert!(!text.contains("swapped"), "a column of zeros: {text}");
        // The names stand in one column.
        let columns: Vec<_> = text.lines().filter_map(|line| line.find("  /lib/")).collect();
        assert_eq!(columns, [columns[0]; PARTS_SHOWN]);
    }
}
