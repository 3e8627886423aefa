//! Where the allocator lies that the command preloads.

use crate::elf::Elf;
use crate::refusal::{Refusal, why};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAME: &str = "libsysmem_preload.so";

/// The places looked in, from the directory of the command. Cargo's `deps` comes first: building
/// the command refreshes the library there, while one that lies beside it may be from an earlier
/// build of the library alone. The others are for an installed command.
const PLACES: [&str; 4] = ["deps", ".", "../lib/sysmem", "../lib"];

/// The allocator as a shared library.
#[derive(Debug)]
pub struct Library {
    /// Where it lies, from the root.
    pub path: PathBuf,
    /// What it is made for.
    pub elf: Elf,
}

impl Library {
    /// Finds the library: the one that was named, or the first in the places looked in.
    pub fn find(named: Option<&Path>) -> Result<Self, Refusal> {
        match named {
            Some(path) => Self::open(path),
            None => {
                let command = std::env::current_exe().map_err(|error| {
                    Refusal::own(format!("cannot tell where this command lies: {}", why(&error)))
                })?;
                Self::find_beside(command.parent().unwrap_or(Path::new("/")))
            }
        }
    }

    fn find_beside(directory: &Path) -> Result<Self, Refusal> {
        let candidates = PLACES.map(|place| directory.join(place).join(NAME));
        match candidates.iter().find(|path| path.is_file()) {
            Some(path) => Self::open(path),
            None => {
                let places = candidates.map(|path| path.display().to_string()).join(", ");
                Err(Refusal::own(format!(
                    "cannot find the allocator: there is no {places}; build it with `cargo build \
                     --release -p sysmem-preload` or name it with --library PATH"
                )))
            }
        }
    }

    fn open(path: &Path) -> Result<Self, Refusal> {
        let cannot = |why: String| {
            Refusal::own(format!("cannot preload the allocator {}: {why}", path.display()))
        };
        // From the root: the program may change its directory before it starts another.
        let path = path.canonicalize().map_err(|error| cannot(self::why(&error)))?;
        let file = File::open(&path).map_err(|error| cannot(self::why(&error)))?;
        let elf = Elf::read(file).ok_or_else(|| cannot("it is no ELF library".into()))?;
        if path.as_os_str().as_bytes().iter().any(|byte| b": \t\n".contains(byte)) {
            let why = "LD_PRELOAD cannot express a path with a space or a colon in it; name a copy \
                       elsewhere with --library PATH";
            return Err(cannot(why.into()));
        }
        Ok(Self { path, elf })
    }

    /// The value of LD_PRELOAD that loads the library before what was to be preloaded already.
    pub fn preload_before(&self, others: Option<&OsStr>) -> std::ffi::OsString {
        let mut value = self.path.clone().into_os_string();
        if let Some(others) = others.filter(|others| !others.is_empty()) {
            value.push(":");
            value.push(others);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::OWN_FAILURE;

    fn scratch(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("sysmem-library-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path.canonicalize().unwrap()
    }

    fn put_library(directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::copy("/proc/self/exe", directory.join(NAME)).unwrap();
    }

    #[test]
    fn the_freshly_built_one_comes_first_then_installed_places() {
        let root = scratch("order");
        let bin = root.join("bin");
        for place in ["lib", "lib/sysmem", "bin", "bin/deps"] {
            std::fs::create_dir_all(&bin).unwrap();
            put_library(&root.join(place));
            let found = Library::find_beside(&bin).unwrap();
            assert_eq!(found.path, root.join(place).join(NAME));
        }
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_missing_library_is_told_with_every_place_and_the_way_out() {
        let root = scratch("none");
        let refusal = Library::find_beside(&root).unwrap_err();
        assert_eq!(refusal.status, OWN_FAILURE);
        for place in PLACES {
            let path = root.join(place).join(NAME);
            assert!(refusal.reason.contains(&path.display().to_string()), "{}", refusal.reason);
        }
        assert!(refusal.reason.contains("cargo build --release -p sysmem-preload"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_path_that_the_loader_would_split_is_refused() {
        let root = scratch("with space");
        put_library(&root);
        let refusal = Library::find(Some(&root.join(NAME))).unwrap_err();
        assert!(refusal.reason.contains("a space or a colon"), "{}", refusal.reason);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_file_that_is_no_library_is_refused() {
        let refusal = Library::find(Some(Path::new("/proc/self/status"))).unwrap_err();
        assert!(refusal.reason.contains("no ELF library"), "{}", refusal.reason);
    }

    #[test]
    fn what_was_preloaded_stays_preloaded() {
        let elf = Elf::read(File::open("/proc/self/exe").unwrap()).unwrap();
        let library = Library { path: "/lib/ours.so".into(), elf };
        assert_eq!(library.preload_before(None), "/lib/ours.so");
        assert_eq!(library.preload_before(Some("".as_ref())), "/lib/ours.so");
        assert_eq!(library.preload_before(Some("a.so b.so".as_ref())), "/lib/ours.so:a.so b.so");
    }
}
