//! /proc/PID/maps and /proc/PID/smaps.

use super::process::{Alive, add_page_figure};
use crate::calls::Files;
use crate::os::linux::proc::{addresses, hexadecimal};
use crate::usage::files::{File, process_refusal};
use crate::usage::lines::{Lines, field, number};
use crate::usage::{Detail, Mapping, MappingKind, PageFigures, Process, check_buffer, refusal};
use crate::{Errno, Error, ErrorKind};

pub(super) fn mappings(
    kernel: &impl Files,
    process: Process,
    detail: Detail,
    buffer: &mut [u8],
    each: &mut dyn FnMut(&Mapping<'_>),
) -> Result<(), Error> {
    check_buffer(buffer)?;
    let alive = Alive::open(kernel, process)?;
    let maps = File::of(kernel, process, "maps").map_err(process_refusal)?;
    let program = program_file(&mut maps.lines(buffer), alive.first.code_start)?;
    let smaps = match detail {
        Detail::Counters => maps,
        Detail::Pages => File::of(kernel, process, "smaps").map_err(process_refusal)?,
    };
    let (name, reading) = buffer.split_at_mut(buffer.len() / 2);
    each_mapping(&mut smaps.lines(reading), name, program, each)?;
    alive.same_program()
}

/// A file as the kernel tells it: device and inode.
type FileId = (u64, u64);

/// The file of the mapping that holds the program's first code; usually in the first lines.
fn program_file(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
    code_start: u64,
) -> Result<Option<FileId>, Error> {
    while let Some(line) = lines.next().map_err(process_refusal)? {
        let header = Header::parse(line).ok_or(refusal(ErrorKind::Unreadable))?;
        if (header.start as u64..header.end as u64).contains(&code_start) {
            return Ok(header.file);
        }
    }
    Ok(None)
}

/// A line of maps: "start-end perms offset device inode    name".
struct Header<'t> {
    start: usize,
    end: usize,
    access: [u8; 4],
    offset: u64,
    /// `None` where there is none.
    file: Option<FileId>,
    name: &'t [u8],
}

impl Header<'_> {
    fn parse(line: &[u8]) -> Option<Header<'_>> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let (start, end) = addresses(fields.next()?)?;
        let access = fields.next()?.try_into().ok()?;
        let offset = hexadecimal(fields.next()?)?;
        let mut device = fields.next()?.splitn(2, |&byte| byte == b':');
        let (major, minor) = (hexadecimal(device.next()?)?, hexadecimal(device.next()?)?);
        let inode = number(fields.next()?)?;
        let file = (inode != 0).then_some((major << 32 | minor, inode));
        let name = fields.next().unwrap_or_default().trim_ascii_start();
        Some(Header { start, end, access, offset, file, name })
    }
}

/// What a mapping is made of, and the part of the name that its owner chose.
fn kind<'t>(header: &Header<'t>, program: Option<FileId>) -> (MappingKind, &'t [u8]) {
    let name = header.name;
    let given = name
        .strip_prefix(b"[anon:")
        .or_else(|| name.strip_prefix(b"[anon_shmem:"))
        .map(|given| given.strip_suffix(b"]").unwrap_or(given));
    if let Some(given) = given {
        // glibc names stacks since 2.39 where asked (glibc.mem.decorate_maps), bionic always.
        let stack = given.starts_with(b" glibc: pthread stack") || given.starts_with(b"stack_and_");
        let kind = if stack { MappingKind::Stack } else { MappingKind::Named };
        return (kind, given.trim_ascii_start());
    }
    let kind = match name {
        b"" => MappingKind::Anonymous,
        b"[heap]" => MappingKind::ProgramBreak,
        _ if name.starts_with(b"[stack") => MappingKind::Stack,
        _ if program.is_some() && header.file == program => MappingKind::Program,
        // tmpfs without a path: memfd_create(2), shared anonymous memory, System V. What lies
        // in a tmpfs with a path may be a program, too, and is a file.
        _ if [&b"/memfd:"[..], b"/dev/zero (deleted)", b"/SYSV", b"/dev/shm/"]
            .iter()
            .any(|prefix| name.starts_with(prefix)) =>
        {
            MappingKind::SharedMemory
        }
        _ if name.starts_with(b"/") && !name.starts_with(b"/dev/") => MappingKind::File,
        // Special mappings, devices, and files that no path leads to ("anon_inode:", "socket:").
        _ => MappingKind::System,
    };
    (kind, name)
}

/// Hands each mapping to `each`, with its name in `room`.
fn each_mapping(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
    room: &mut [u8],
    program: Option<FileId>,
    each: &mut dyn FnMut(&Mapping<'_>),
) -> Result<(), Error> {
    // The mapping whose lines are being read; its name is in `room`.
    let mut current: Option<(Mapping<'static>, usize)> = None;
    let finish = |current: Option<(Mapping<'static>, usize)>,
                  room: &[u8],
                  each: &mut dyn FnMut(&Mapping<'_>)| {
        if let Some((mapping, len)) = current {
            each(&Mapping { name: &room[..len], ..mapping });
        }
    };
    while let Some(line) = lines.next().map_err(process_refusal)? {
        // Lines of figures begin with a capital, addresses are written small.
        if line.first().is_some_and(u8::is_ascii_uppercase) {
            let figures = current.as_mut().zip(field(line));
            let ((mapping, _), (key, value)) = figures.ok_or(refusal(ErrorKind::Unreadable))?;
            add_page_figure(&mut mapping.pages, key, value);
            continue;
        }
        finish(current.take(), room, each);
        let header = Header::parse(line).ok_or(refusal(ErrorKind::Unreadable))?;
        let (kind, name) = kind(&header, program);
        let len = name.len().min(room.len());
        room[..len].copy_from_slice(&name[..len]);
        let [readable, writable, executable, shared] = header.access;
        let mapping = Mapping {
            start: header.start,
            end: header.end,
            readable: readable == b'r',
            writable: writable == b'w',
            executable: executable == b'x',
            shared: Some(shared == b's'),
            offset: header.offset,
            kind,
            name: b"",
            pages: PageFigures::default(),
        };
        current = Some((mapping, len));
    }
    finish(current, room, each);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::lines::tests::reader;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    /// Of Linux 6.18 (smaps of a process that named a mapping), shortened.
    const SMAPS: &str = "\
561c3ffe6000-561c3ffe8000 r--p 00001000 fe:00 247030                     /usr/bin/my cat
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                   8 kB
Private_Clean:         4 kB
Private_Dirty:         4 kB
AnonHugePages:         0 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd mr mw me sd 
561c40000000-561c40021000 rw-p 00000000 00:00 0                          [heap]
Rss:                  16 kB
7f0000000000-7f0000400000 rw-p 00000000 00:00 0                          [anon:page heap]
Rss:                4096 kB
LazyFree:             64 kB
AnonHugePages:      2048 kB
7f0000400000-7f0000800000 ---p 00000000 00:00 0 
Rss:                   0 kB
7f0000800000-7f0000900000 rw-s 00000000 00:01 9                          /memfd:figures (deleted)
7f0000a00000-7f0000b00000 r-xp 00002000 fe:00 99                         /lib/libc.so.6
7f0000c00000-7f0000d00000 rw-p 00000000 00:00 0                          [anon: glibc: pthread stack: 7]
7ffd17b10000-7ffd17b31000 rw-p 00000000 00:00 0                          [stack]
7ffd17b5e000-7ffd17b60000 r-xp 00000000 00:00 0                          [vdso]
";

    type Seen = (usize, String, MappingKind, Option<u64>);

    fn read(text: &[u8], step: usize, room: usize) -> Result<Vec<Seen>, Error> {
        let mut buffer = std::vec![0; room];
        let mut name = std::vec![0; room];
        let mut program = std::vec![0; room];
        let code_start = 0x561c_3ffe_6000;
        let headers: String = String::from_utf8_lossy(text)
            .lines()
            .filter(|line| !line.starts_with(|sign: char| sign.is_ascii_uppercase()))
            .map(|line| String::from(line) + "\n")
            .collect();
        let mut lines = Lines::new(reader(headers.as_bytes(), step), &mut program);
        let program = program_file(&mut lines, code_start)?;
        let mut found = Vec::new();
        let mut lines = Lines::new(reader(text, step), &mut buffer);
        each_mapping(&mut lines, &mut name, program, &mut |mapping| {
            let name = String::from_utf8_lossy(mapping.name).into_owned();
            found.push((mapping.len(), name, mapping.kind, mapping.pages.resident));
        })?;
        Ok(found)
    }

    #[test]
    fn mappings_are_told_with_their_kind_name_and_figures() {
        use MappingKind::*;
        let expected = [
            (0x2000, "/usr/bin/my cat", Program, Some(8 << 10)),
            (0x21000, "[heap]", ProgramBreak, Some(16 << 10)),
            (4 << 20, "page heap", Named, Some(4 << 20)),
            (4 << 20, "", Anonymous, Some(0)),
            (1 << 20, "/memfd:figures (deleted)", SharedMemory, None),
            (1 << 20, "/lib/libc.so.6", File, None),
            (1 << 20, "glibc: pthread stack: 7", Stack, None),
            (0x21000, "[stack]", Stack, None),
            (0x2000, "[vdso]", System, None),
        ];
        for step in [1, 13, 4096] {
            let found = read(SMAPS.as_bytes(), step, 256).unwrap();
            let found: Vec<_> =
                found.iter().map(|(len, name, kind, rss)| (*len, &name[..], *kind, *rss)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn every_field_of_a_mapping_is_read() {
        let (mut buffer, mut name) = ([0; 256], [0; 256]);
        let mut lines = Lines::new(reader(SMAPS.as_bytes(), 99), &mut buffer);
        let mut first = true;
        each_mapping(&mut lines, &mut name, None, &mut |mapping| {
            if core::mem::take(&mut first) {
                assert_eq!((mapping.start, mapping.end), (0x561c_3ffe_6000, 0x561c_3ffe_8000));
                assert_eq!(mapping.offset, 0x1000);
                assert!(mapping.readable && !mapping.writable && !mapping.executable);
                assert_eq!(mapping.shared, Some(false));
                assert_eq!(mapping.pages.private, Some(8 << 10));
                assert_eq!(mapping.kind, MappingKind::File);
            }
            if mapping.kind == MappingKind::Named {
                assert_eq!(mapping.pages.lazily_freed, Some(64 << 10));
                assert_eq!(mapping.pages.huge, Some(2 << 20));
            }
            assert_eq!(mapping.shared, Some(mapping.kind == MappingKind::SharedMemory));
        })
        .unwrap();
    }

    #[test]
    fn a_name_without_room_is_cut_and_the_next_mapping_is_whole() {
        let long = "x".repeat(5000);
        let text = std::format!(
            "1000-2000 r--p 00000000 fe:00 7                     /{long}\nRss: 4 kB\n\
             3000-4000 rw-p 00000000 00:00 0 \nRss: 8 kB\n"
        );
        let found = read(text.as_bytes(), 100, 256).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].1.starts_with("/xxx") && found[0].1.len() < 256);
        assert_eq!(found[0].3, Some(4096));
        assert_eq!(found[1], (0x1000, String::new(), MappingKind::Anonymous, Some(8192)));
    }

    #[test]
    fn what_is_no_listing_is_unreadable() {
        for text in [
            "Rss: 4 kB\n",
            "2000-1000 r--p 00000000 00:00 0\n",
            "1000-2000 r-- 00000000 00:00 0\n",
            "1000-2000 r--p 00000000 00:00\n",
            "1000-2000 r--p 00000000 00:00 0\n\n",
            "nothing\n",
        ] {
            let error = read(text.as_bytes(), 99, 256).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreadable, "{text}");
        }
    }

    proptest! {
        #[test]
        fn listings_come_back_as_they_were_written(
            mappings in proptest::collection::vec(
                (1usize..1000, 1usize..1000, any::<[bool; 4]>(), 0u64..1 << 40, "[a-z /.-]{0,40}"),
                0..20,
            ),
            step in 1usize..300,
        ) {
            let mut text = String::new();
            let mut at = 0;
            let mut expected = Vec::new();
            for (gap, npages, access, rss, name) in mappings {
                let start = at + gap * 4096;
                at = start + npages * 4096;
                let sign = |bit: usize, sign| if access[bit] { sign } else { '-' };
                text += &std::format!(
                    "{start:08x}-{at:08x} {}{}{}{} 00000000 fe:00 5   {name}\nRss:   {rss} kB\n",
                    sign(0, 'r'), sign(1, 'w'), sign(2, 'x'), if access[3] { 's' } else { 'p' },
                );
                expected.push((start, at, access, Some(rss << 10)));
            }
            let (mut buffer, mut room) = ([0; 256], [0; 256]);
            let mut found = Vec::new();
            let mut lines = Lines::new(reader(text.as_bytes(), step), &mut buffer);
            each_mapping(&mut lines, &mut room, None, &mut |m| found.push((
                m.start, m.end, [m.readable, m.writable, m.executable, m.shared == Some(true)], m.pages.resident,
            ))).unwrap();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn damaged_listings_are_refused_or_read_never_a_panic(
            place in 0..SMAPS.len(),
            damage in proptest::collection::vec(any::<u8>(), 0..8),
            step in 1usize..300,
        ) {
            let mut text = SMAPS.as_bytes().to_vec();
            text.splice(place..(place + damage.len()).min(SMAPS.len()), damage);
            let _ = read(&text, step, 256);
        }
    }
}
