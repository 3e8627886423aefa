//! Where code lies in a process, and who called whom by its stack.
//!
//! Code is commonly built without frame pointers, so stacks are walked with the tables that the
//! compiler leaves for exceptions (`.eh_frame`), by framehop; where a place has none, as in code that
//! was made at run time, by frame pointers.

use super::Frame;
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};
use object::elf::PF_X;
use object::{Object, ObjectSection, ObjectSegment, ReadCache, SegmentFlags};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use sysmem_alloc::samples::{MAPPINGS, Registers, Sample, Samples};

#[cfg(target_arch = "aarch64")]
use framehop::aarch64::{CacheAarch64 as Cache, UnwindRegsAarch64, UnwinderAarch64 as Stacks};
#[cfg(target_arch = "x86_64")]
use framehop::x86_64::{CacheX86_64 as Cache, UnwindRegsX86_64, UnwinderX86_64 as Stacks};

/// The deepest stack that is walked.
const DEEPEST: usize = 512;

/// How often the mappings of a process are read at most, for code that is not known.
const LOOK_EVERY: Duration = Duration::from_millis(200);

type Bytes = Rc<[u8]>;

/// The files of code that were seen, by number.
pub struct Files {
    numbers: HashMap<PathBuf, usize>,
    pub all: Vec<CodeFile>,
    /// The allocator, whose own frames are of no interest.
    library: PathBuf,
}

/// A file of code.
pub struct CodeFile {
    pub path: PathBuf,
    segments: Vec<Segment>,
    sections: ExplicitModuleSectionInfo<Bytes>,
    /// Where it was first seen mapped, and where its own address 0 would lie there.
    pub mapped: Range<u64>,
    pub base: u64,
}

struct Segment {
    /// In the file.
    offset: u64,
    length: u64,
    /// The file's own address.
    address: u64,
}

impl Files {
    /// The number of code that lies in no file.
    pub const UNKNOWN: usize = 0;

    pub fn new(library: &Path) -> Self {
        let none = CodeFile {
            path: PathBuf::new(),
            segments: Vec::new(),
            sections: ExplicitModuleSectionInfo::default(),
            mapped: 0..0,
            base: 0,
        };
        Self { numbers: HashMap::new(), all: vec![none], library: library.to_owned() }
    }

    /// The file at a path, read if it was not before.
    fn number(&mut self, path: &Path) -> usize {
        if let Some(&number) = self.numbers.get(path) {
            return number;
        }
        let file = CodeFile::read(path).unwrap_or_default();
        self.all.push(CodeFile { path: path.to_owned(), ..file });
        self.numbers.insert(path.to_owned(), self.all.len() - 1);
        self.all.len() - 1
    }

    fn is_allocator(&self, file: usize) -> bool {
        self.all[file].path == self.library
    }
}

impl Default for CodeFile {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            segments: Vec::new(),
            sections: ExplicitModuleSectionInfo::default(),
            mapped: 0..0,
            base: 0,
        }
    }
}

impl CodeFile {
    fn read(path: &Path) -> Option<Self> {
        // Of a file with debug information, a small part is needed here.
        let data = ReadCache::new(File::open(path).ok()?);
        let file = object::File::parse(&data).ok()?;
        // Segments may share a page of the file, which is mapped once for each: only those of code.
        let segments = file
            .segments()
            .filter(|segment| {
                matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.contains(PF_X))
            })
            .map(|segment| {
                let (offset, length) = segment.file_range();
                Segment { offset, length, address: segment.address() }
            })
            .collect();
        let range = |name: &str| {
            let section = file.section_by_name(name)?;
            Some(section.address()..section.address() + section.size())
        };
        let bytes = |name: &str| {
            let section = file.section_by_name(name)?;
            Some(Bytes::from(section.uncompressed_data().ok()?))
        };
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: range(".text"),
            got_svma: range(".got"),
            eh_frame_svma: range(".eh_frame"),
            eh_frame: bytes(".eh_frame"),
            eh_frame_hdr_svma: range(".eh_frame_hdr"),
            eh_frame_hdr: bytes(".eh_frame_hdr"),
            debug_frame: bytes(".debug_frame"),
            ..ExplicitModuleSectionInfo::default()
        };
        Some(Self { segments, sections, ..Self::default() })
    }

    /// The file's own address of what lies at an offset in it.
    fn address_of(&self, offset: u64) -> Option<u64> {
        let page = !(sysmem::page_size() as u64 - 1);
        let segment = self.segments.iter().find(|segment| {
            // A segment is mapped from the beginning of the page on in which it begins.
            (segment.offset & page..segment.offset + segment.length).contains(&offset)
        })?;
        Some(segment.address.wrapping_add(offset).wrapping_sub(segment.offset))
    }
}

/// Walks the stacks of one process image.
pub struct Walker {
    stacks: Stacks<Bytes>,
    cache: Cache,
    /// Where code is mapped, the number of its file, and the place of the file's own address 0.
    code: Vec<(Range<u64>, usize, u64)>,
    looked: Option<Instant>,
}

impl Default for Walker {
    fn default() -> Self {
        Self { stacks: Stacks::new(), cache: Cache::new(), code: Vec::new(), looked: None }
    }
}

impl Walker {
    /// Who called, from the innermost frame outside the allocator on.
    pub fn frames(&mut self, sample: &Sample, samples: &Samples, files: &mut Files) -> Vec<Frame> {
        let (mut addresses, whole) = self.walk(sample);
        let known = addresses.iter().all(|&address| self.place(address).is_some());
        let due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if due && !(whole && known) {
            self.look(sample, samples, files);
            (addresses, _) = self.walk(sample);
        }
        let mut frames: Vec<Frame> = addresses
            .into_iter()
            .map(|address| match self.place(address) {
                Some(&(_, file, base)) => Frame { file, address: address.wrapping_sub(base) },
                None => Frame { file: Files::UNKNOWN, address },
            })
            .collect();
        let own = frames.iter().take_while(|frame| files.is_allocator(frame.file)).count();
        frames.drain(..own);
        frames
    }

    fn place(&self, address: u64) -> Option<&(Range<u64>, usize, u64)> {
        self.code.iter().find(|(range, ..)| range.contains(&address))
    }

    /// The addresses of the instructions that called, and whether the walk came to the stack's end.
    fn walk(&mut self, sample: &Sample) -> (Vec<u64>, bool) {
        let Registers { instruction, stack, frame } = sample.registers;
        let length = usize::try_from(sample.stack_bytes).unwrap_or(0).min(sample.stack.len());
        let bytes = &sample.stack[..length];
        let mut read = |address: u64| {
            let from = usize::try_from(address.checked_sub(stack).ok_or(())?).map_err(|_| ())?;
            let word = bytes.get(from..from.checked_add(8).ok_or(())?).ok_or(())?;
            Ok(u64::from_le_bytes(word.try_into().map_err(|_| ())?))
        };
        #[cfg(target_arch = "x86_64")]
        let registers = UnwindRegsX86_64::new(instruction, stack, frame);
        // The link register is of no use in a function that called others.
        #[cfg(target_arch = "aarch64")]
        let registers = UnwindRegsAarch64::new(0, stack, frame);
        let mut walk = self.stacks.iter_frames(instruction, registers, &mut self.cache, &mut read);
        let mut addresses = Vec::new();
        loop {
            match walk.next() {
                Ok(Some(frame)) => addresses.push(FrameAddress::address_for_lookup(frame)),
                Ok(None) => return (addresses, true),
                Err(_) => return (addresses, false),
            }
            if addresses.len() == DEEPEST {
                return (addresses, true);
            }
        }
    }

    /// Reads where code lies in the process: from the system while it runs, else from what it left.
    fn look(&mut self, sample: &Sample, samples: &Samples, files: &mut Files) {
        let mut buffer = [0; MAPPINGS];
        let left = samples.read_mappings(sample.slot as usize, &mut buffer).to_vec();
        // What it left says which program it is: the process may be another one by now, or have
        // another number in a container.
        let now = std::fs::read(format!("/proc/{}/maps", sample.pid)).unwrap_or_default();
        let first = |text: &[u8]| text.split(|&byte| byte == b'\n').next().unwrap_or(&[]).to_vec();
        let same = !left.is_empty() && {
            let first = first(&left);
            now.split(|&byte| byte == b'\n').any(|line| line == first)
        };
        for text in [Some(left), same.then_some(now)].into_iter().flatten() {
            for line in text.split(|&byte| byte == b'\n') {
                if let Some(mapping) = std::str::from_utf8(line).ok().and_then(Mapping::parse) {
                    self.add(&mapping, files);
                }
            }
        }
        self.looked = Some(Instant::now());
    }

    fn add(&mut self, mapping: &Mapping<'_>, files: &mut Files) {
        if self.code.iter().any(|(range, ..)| range.start == mapping.range.start) {
            return;
        }
        let number = files.number(Path::new(mapping.path));
        let file = &mut files.all[number];
        let Some(address) = file.address_of(mapping.offset) else { return };
        let base = mapping.range.start.wrapping_sub(address);
        if file.mapped.is_empty() {
            (file.mapped, file.base) = (mapping.range.clone(), base);
        }
        let sections = ExplicitModuleSectionInfo {
            text_svma: file.sections.text_svma.clone(),
            got_svma: file.sections.got_svma.clone(),
            eh_frame_svma: file.sections.eh_frame_svma.clone(),
            eh_frame: file.sections.eh_frame.clone(),
            eh_frame_hdr_svma: file.sections.eh_frame_hdr_svma.clone(),
            eh_frame_hdr: file.sections.eh_frame_hdr.clone(),
            debug_frame: file.sections.debug_frame.clone(),
            ..ExplicitModuleSectionInfo::default()
        };
        let name = mapping.path.to_owned();
        self.stacks.add_module(Module::new(name, mapping.range.clone(), base, sections));
        self.code.push((mapping.range.clone(), number, base));
    }
}

/// A line of `/proc/<pid>/maps` that maps code of a file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    range: Range<u64>,
    offset: u64,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (rights, rest) = rest.split_once(' ')?;
        let (offset, rest) = rest.split_once(' ')?;
        let path = &rest[rest.find('/')?..];
        if rights.as_bytes().get(2) != Some(&b'x') {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self { range: number(start)?..number(end)?, offset: number(offset)?, path })
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::ptr;

    use super::super::symbols;
    use super::*;
    use sysmem_alloc::samples::STACK;

    #[test]
    fn lines_of_code_are_read_and_others_passed_over() {
        let line = "7f12a0028000-7f12a01bd000 r-xp 00028000 08:01 1234    /usr/lib/a b/libc.so.6";
        let expected = Mapping {
            range: 0x7f12_a002_8000..0x7f12_a01b_d000,
            offset: 0x28000,
            path: "/usr/lib/a b/libc.so.6",
        };
        assert_eq!(Mapping::parse(line), Some(expected));
        for other in [
            "7f12a0000000-7f12a0028000 r--p 00000000 08:01 1234    /usr/lib/libc.so.6",
            "7ffd1000-7ffd3000 r-xp 00000000 00:00 0    [vdso]",
            "7f12a0000000-7f12a0028000 r-xp 00000000 00:00 0",
            "",
            "x-y r-xp z 08:01 1 /a",
        ] {
            assert_eq!(Mapping::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_own_program_has_its_addresses() {
        let path = std::env::current_exe().unwrap();
        let file = CodeFile::read(&path).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let here = the_own_program_has_its_addresses as *const () as usize as u64;
        let mapping = maps.lines().filter_map(Mapping::parse).find(|m| m.range.contains(&here));
        let mapping = mapping.expect("the code of this test");
        let own = file.address_of(mapping.offset).unwrap() + (here - mapping.range.start);
        let text = file.sections.text_svma.unwrap();
        assert!(text.contains(&own), "{own:#x} in {text:x?}");
    }

    /// What a sample holds that is taken in `inner`, of which the compiler may not see the caller.
    #[inline(never)]
    fn inner(sample: &mut Sample) -> u64 {
        sample.registers = Registers::here();
        let from = ptr::with_exposed_provenance::<u8>(sample.registers.stack as usize);
        // SAFETY: `outermost` has more than that on the stack.
        unsafe { from.copy_to_nonoverlapping(sample.stack.as_mut_ptr(), sample.stack.len()) };
        sample.stack_bytes = sample.stack.len() as u64;
        black_box(7)
    }

    #[inline(never)]
    fn middle(sample: &mut Sample) -> u64 {
        black_box(inner(sample)) + 1
    }

    #[inline(never)]
    fn outermost(sample: &mut Sample) -> u64 {
        let room = black_box([1_u8; 2 * STACK]);
        middle(sample) + u64::from(room[black_box(STACK)])
    }

    #[test]
    fn the_callers_of_a_function_are_found_from_its_registers_and_its_stack() {
        // SAFETY: numbers only, for which zeros are valid.
        let samples: Box<Samples> = unsafe { Box::new_zeroed().assume_init() };
        // SAFETY: the same.
        let mut sample: Box<Sample> = unsafe { Box::new_zeroed().assume_init() };
        sample.pid = std::process::id();
        assert_eq!(outermost(&mut sample), 9);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let code = maps.lines().find(|line| Mapping::parse(line).is_some()).unwrap();
        samples.write_mappings(0, |text| {
            text[..code.len()].copy_from_slice(code.as_bytes());
            code.len()
        });
        let mut files = Files::new(Path::new("/nowhere"));
        let frames = Walker::default().frames(&sample, &samples, &mut files);
        let named = symbols::name(&files, frames.iter());
        let names: Vec<&str> = frames
            .iter()
            .flat_map(|frame| &named[frame])
            .map(|function| function.name.rsplit("::").next().unwrap())
            .collect();
        let first = names.iter().position(|name| *name == "inner").expect("inner");
        assert_eq!(names[first..][..3], ["inner", "middle", "outermost"], "{names:?}");
    }
}
