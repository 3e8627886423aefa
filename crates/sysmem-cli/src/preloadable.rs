//! Finds the program that a name means, and tells whether a library can be preloaded into it.
//!
//! The dynamic loader ignores LD_PRELOAD in silence where it does not apply; a report about
//! nothing would be the only sign. So the command looks first: at the file and, for a script, at
//! the interpreter that the kernel will load for it.

use crate::elf::{Elf, Target};
use crate::refusal::{Refusal, why};
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, getxattr, statvfs};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where execvp(3) looks when PATH is not set.
const DEFAULT_SEARCH: &str = "/bin:/usr/bin";

/// How many interpreters of interpreters the kernel follows (fs/exec.c: `bprm` recursion).
const INTERPRETERS: usize = 5;

/// How much of a script's first line the kernel reads (BINPRM_BUF_SIZE, Linux 5.1 and later).
const FIRST_LINE_BYTES: u64 = 256;

/// The file that would be run for a name, found as execvp(3) does: a name with a slash is a path,
/// any other is looked for in the directories of `search`.
pub fn find(name: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, Refusal> {
    if name.as_bytes().contains(&b'/') {
        let path = Path::new(name);
        return executable(path).map(|()| path.to_owned());
    }
    if name.is_empty() {
        return Err(Refusal::not_found("cannot run a program without a name".to_owned()));
    }
    let mut denied = None;
    let search = search.unwrap_or(OsStr::new(DEFAULT_SEARCH));
    for directory in search.as_bytes().split(|&byte| byte == b':') {
        // An empty directory is the current one.
        let directory = if directory.is_empty() { b"." } else { directory };
        let path = Path::new(OsStr::from_bytes(directory)).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(refusal) if refusal.status == crate::refusal::CANNOT_RUN => {
                denied = denied.or(Some(refusal));
            }
            _ => {}
        }
    }
    Err(denied.unwrap_or_else(|| {
        Refusal::not_found(format!(
            "cannot run {}: no such program on PATH",
            name.to_string_lossy()
        ))
    }))
}

/// Whether the path is a file that may be executed.
fn executable(path: &Path) -> Result<(), Refusal> {
    let cannot = |why: String| format!("cannot run {}: {why}", path.display());
    let about = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::not_found(cannot("no such file".into())),
        std::io::ErrorKind::NotADirectory => Refusal::not_found(cannot(self::why(&error))),
        _ => Refusal::cannot_run(cannot(self::why(&error))),
    })?;
    if about.is_dir() {
        return Err(Refusal::cannot_run(cannot("it is a directory".into())));
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|_| {
        let mode = about.permissions().mode() & 0o7777;
        Refusal::cannot_run(cannot(format!("not executable for this user (mode {mode:04o})")))
    })
}

/// Whether a library for `target` can be preloaded into what the kernel loads for this file.
/// A format that only the system knows (binfmt_misc) is left to the system.
pub fn check(program: &Path, target: Target, search: Option<&OsStr>) -> Result<(), Refusal> {
    let mut path = program.to_owned();
    for _ in 0..INTERPRETERS {
        // A file that may be executed and not read cannot be looked into; it is let through.
        let Ok(mut file) = File::open(&path) else { return Ok(()) };
        let mut first_line = Vec::new();
        let read = file.by_ref().take(FIRST_LINE_BYTES).read_to_end(&mut first_line);
        if read.is_err() {
            return Ok(());
        }
        let Some(script) = Script::parse(&first_line) else {
            return match Elf::read(file) {
                Some(elf) => check_elf(program, &path, &elf, target),
                None => Ok(()),
            };
        };
        if !script.interpreter.exists() {
            return Err(Refusal::not_found(format!(
                "cannot run {}: its interpreter {} does not exist",
                program.display(),
                script.interpreter.display()
            )));
        }
        path = match script.looked_for_by_env() {
            // What env does not find, env itself complains about.
            Some(name) => match find(name, search) {
                Ok(path) => path,
                Err(_) => return Ok(()),
            },
            None => script.interpreter,
        };
    }
    Ok(())
}

fn check_elf(program: &Path, path: &Path, elf: &Elf, target: Target) -> Result<(), Refusal> {
    let cannot = |why: String| {
        let interpreter =
            if path == program { String::new() } else { format!(" (run by {})", path.display()) };
        Err(Refusal::cannot_run(format!(
            "cannot run {}{interpreter} on sysmem: {why}",
            program.display()
        )))
    };
    if elf.target != target {
        return cannot(format!("it is made for {}, the allocator for {target}", elf.target));
    }
    let Some(loader) = &elf.loader else {
        return cannot("it is statically linked, so no library can be preloaded into it".into());
    };
    let loader_name = loader.file_name().unwrap_or_default().as_bytes();
    if loader_name.starts_with(b"ld-musl") {
        return cannot("it is linked with musl, and the allocator needs the GNU C library".into());
    }
    if !loader.exists() {
        return cannot(format!("its dynamic loader {} does not exist", loader.display()));
    }
    match std::fs::metadata(path).ok().and_then(|about| raised_privileges(path, &about)) {
        Some(how) => cannot(format!(
            "it is {how}, and the dynamic loader preloads nothing into a program that gains \
             privileges"
        )),
        None => Ok(()),
    }
}

/// How executing the file would raise the privileges of this user: then the kernel sets AT_SECURE
/// (security/commoncap.c) and the loader ignores LD_PRELOAD. A setuid file of the user's own raises
/// nothing, nor does any under no_new_privs or on a file system mounted nosuid.
fn raised_privileges(path: &Path, about: &Metadata) -> Option<String> {
    let user = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    let mode = about.mode();
    let how = if mode & libc::S_ISUID != 0 && about.uid() != user {
        format!("setuid to user {}", about.uid())
    } else if mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0 && about.gid() != group {
        format!("setgid to group {}", about.gid())
    } else if user != 0 && has_capabilities(path) {
        "given capabilities".to_owned()
    } else {
        return None;
    };
    // SAFETY: the call takes numbers only.
    let no_new = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1;
    let mounted = statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOSUID));
    (!no_new && !mounted).then_some(how)
}

fn has_capabilities(path: &Path) -> bool {
    let mut value = [0_u8; 64];
    matches!(getxattr(path, c"security.capability", &mut value[..]), Ok(1..) | Err(Errno::RANGE))
}

/// The first line of a script: `#!` interpreter, and the rest as one argument.
struct Script {
    interpreter: PathBuf,
    argument: Vec<u8>,
}

impl Script {
    fn parse(text: &[u8]) -> Option<Self> {
        let line = text.strip_prefix(b"#!")?;
        let line = line.split(|&byte| byte == b'\n' || byte == 0).next()?.trim_ascii();
        let end = line.iter().position(|byte| b" \t".contains(byte)).unwrap_or(line.len());
        let (interpreter, argument) = line.split_at(end);
        (!interpreter.is_empty()).then(|| Self {
            interpreter: PathBuf::from(OsString::from_vec(interpreter.to_vec())),
            argument: argument.trim_ascii().to_vec(),
        })
    }

    /// The program that env(1) looks for when it is the interpreter.
    fn looked_for_by_env(&self) -> Option<&OsStr> {
        if self.interpreter.file_name() != Some(OsStr::new("env")) {
            return None;
        }
        let mut words = self.argument.split(|&byte| byte == b' ' || byte == b'\t');
        words
            .find(|word| !word.is_empty() && !word.starts_with(b"-") && !word.contains(&b'='))
            .map(OsStr::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::{CANNOT_RUN, NOT_FOUND};

    fn script(line: &str) -> Script {
        Script::parse(line.as_bytes()).expect("a script")
    }

    #[test]
    fn first_lines_are_read_as_the_kernel_reads_them() {
        let plain = script("#!/bin/sh\necho");
        assert_eq!((plain.interpreter.to_str(), &plain.argument[..]), (Some("/bin/sh"), &b""[..]));
        let spaced = script("#! \t/usr/bin/awk  -f x \n");
        assert_eq!(spaced.interpreter.to_str(), Some("/usr/bin/awk"));
        assert_eq!(spaced.argument, b"-f x");
        for no_script in ["", "#", "#!", "#!  \n/bin/sh", "\x7fELF", " #!/bin/sh"] {
            assert!(Script::parse(no_script.as_bytes()).is_none(), "{no_script:?}");
        }
    }

    #[test]
    fn the_program_behind_env_is_followed() {
        for (line, name) in [
            ("#!/usr/bin/env python3\n", Some("python3")),
            ("#!/usr/bin/env -S A=1 python3 -u\n", Some("python3")),
            ("#!/usr/bin/env\n", None),
            ("#!/bin/sh env\n", None),
        ] {
            assert_eq!(script(line).looked_for_by_env(), name.map(OsStr::new), "{line:?}");
        }
    }

    #[test]
    fn names_are_looked_for_as_execvp_does() {
        let on_path = |name: &str, search: &str| find(name.as_ref(), Some(search.as_ref()));
        assert_eq!(on_path("sh", "/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
        assert_eq!(find("sh".as_ref(), None).unwrap(), Path::new("/bin/sh"));
        assert_eq!(on_path("/bin/sh", "").unwrap(), Path::new("/bin/sh"));
        for (name, status) in [
            ("no-such-program", NOT_FOUND),
            ("", NOT_FOUND),
            ("/no/such/program", NOT_FOUND),
            ("/etc/passwd/x", NOT_FOUND),
            ("/etc", CANNOT_RUN),
            ("/etc/passwd", CANNOT_RUN),
        ] {
            assert_eq!(on_path(name, "/bin").unwrap_err().status, status, "{name:?}");
        }
        assert_eq!(on_path("passwd", "/etc:/nowhere").unwrap_err().status, CANNOT_RUN);
    }
}
