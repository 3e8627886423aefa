//! What an executable's header says about how it is loaded.

use object::elf::{FileHeader32, FileHeader64, Machine};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// An executable or a library in ELF.
#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    /// The machine whose code it holds.
    pub target: Target,
    /// The dynamic loader that it asks for; none when it is statically linked.
    pub loader: Option<PathBuf>,
}

/// The kind of machine that code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    machine: Machine,
    bits: u8,
    little_endian: bool,
}

impl Elf {
    /// Reads the header; `None` where the file is no whole ELF.
    pub fn read(file: File) -> Option<Self> {
        let data = ReadCache::new(file);
        match FileKind::parse(&data).ok()? {
            FileKind::Elf32 => Self::parse::<FileHeader32<Endianness>>(&data, 32),
            FileKind::Elf64 => Self::parse::<FileHeader64<Endianness>>(&data, 64),
            _ => None,
        }
    }

    fn parse<H: FileHeader<Endian = Endianness>>(data: &ReadCache<File>, bits: u8) -> Option<Self> {
        let header = H::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let mut loader = None;
        for segment in header.program_headers(endian, data).ok()? {
            let name = segment.interpreter(endian, data).ok()?;
            loader = loader.or(name.map(|name| PathBuf::from(OsStr::from_bytes(name))));
        }
        let little_endian = header.is_little_endian();
        let machine = header.e_machine(endian);
        Some(Self { target: Target { machine, bits, little_endian }, loader })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use object::elf::{EM_386, EM_AARCH64, EM_ARM, EM_RISCV, EM_X86_64};
        let name = match self.machine {
            EM_386 => "x86",
            EM_X86_64 => "x86-64",
            EM_ARM => "ARM",
            EM_AARCH64 => "AArch64",
            EM_RISCV => "RISC-V",
            machine => return write!(f, "ELF machine {} ({} bits)", machine.0, self.bits),
        };
        write!(f, "{name} ({} bits)", self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_running_test_is_a_dynamic_program_for_this_machine() {
        let elf = Elf::read(File::open("/proc/self/exe").unwrap()).expect("an ELF");
        assert!(elf.loader.is_some());
        assert_eq!(elf.target.bits as u32, usize::BITS);
        assert!(elf.target.little_endian);
    }

    #[test]
    fn other_and_damaged_files_are_no_elf() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &whole[..40], &whole[..70]] {
            let path = std::env::temp_dir().join(format!("sysmem-elf-{}", std::process::id()));
            File::create(&path).unwrap().write_all(bytes).unwrap();
            assert_eq!(Elf::read(File::open(&path).unwrap()), None, "{} bytes", bytes.len());
            std::fs::remove_file(&path).unwrap();
        }
    }
}
