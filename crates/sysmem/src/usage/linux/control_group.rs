//! Control groups (cgroups(7)), version 2 and, where memory is still controlled by it, version 1.

use core::ffi::CStr;

use super::machine;
use crate::calls::Files;
use crate::usage::files::{File, Path, process_refusal, read};
use crate::usage::lines::{Lines, number};
use crate::usage::{ControlGroup, NO_LIMIT, Process};
use crate::{Errno, Error};

/// A path may have this many bytes: `PATH_MAX`.
const ROOM: usize = 4096;

/// From this size on a limit of version 1 limits nothing: the largest that it can hold, rounded
/// down to pages of up to 64 KiB (mm/memcontrol-v1.c, `PAGE_COUNTER_MAX`).
const NO_LIMIT_V1: u64 = (i64::MAX as u64) & !0xffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What the files of a version are called.
struct Names {
    used: &'static str,
    peak: &'static str,
    limit: &'static str,
}

impl Version {
    fn names(self) -> Names {
        match self {
            Version::One => Names {
                used: "memory.usage_in_bytes",
                peak: "memory.max_usage_in_bytes",
                limit: "memory.limit_in_bytes",
            },
            Version::Two => {
                Names { used: "memory.current", peak: "memory.peak", limit: "memory.max" }
            }
        }
    }
}

pub(super) fn usage(kernel: &impl Files, process: Process) -> Result<ControlGroup, Error> {
    let file = File::of(kernel, process, "cgroup").map_err(process_refusal)?;
    let mut buffer = [0; ROOM];
    let mut group = Path::<ROOM>::new();
    let version = membership(&mut file.lines(&mut buffer), &mut group).map_err(process_refusal)?;
    let Some(version) = version else { return Ok(ControlGroup::default()) };
    let Ok(mounts) = File::open(kernel, c"/proc/self/mountinfo") else {
        return Ok(ControlGroup::default());
    };
    let mut directory = Path::<ROOM>::new();
    let mount = mount_point(&mut mounts.lines(&mut buffer), version, &group, &mut directory);
    Ok(match mount.map_err(process_refusal)? {
        Some(mount_len) => walk(kernel, version, directory, mount_len),
        None => ControlGroup::default(),
    })
}

/// Which group of /proc/PID/cgroup controls memory. A line is "number:controllers:path"; version 2
/// is number 0 without controllers, and controls memory unless version 1 does.
fn membership(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
    group: &mut Path<ROOM>,
) -> Result<Option<Version>, Errno> {
    let mut found = None;
    lines.each(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(number), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return true;
        };
        let version = match controllers.split(|&byte| byte == b',').any(|name| name == b"memory") {
            true => Version::One,
            false if number == b"0" && controllers.is_empty() => Version::Two,
            false => return true,
        };
        group.truncate(0);
        if group.push(path).is_some() {
            found = Some(version);
        }
        version == Version::Two
    })?;
    Ok(found)
}

/// Puts the directory of `group` into `directory` and says how much of it is the mount point.
/// `None` where the group lies outside of what is mounted.
///
/// A line of mountinfo (proc_pid_mountinfo(5)): "id parent device root mountpoint options
/// [optional...] - type source superoptions", blanks in paths written as \040.
fn mount_point(
    lines: &mut Lines<'_, impl FnMut(&mut [u8]) -> Result<usize, Errno>>,
    version: Version,
    group: &Path<ROOM>,
    directory: &mut Path<ROOM>,
) -> Result<Option<usize>, Errno> {
    let mut found = None;
    lines.each(|line| {
        found = (|| {
            let separator = line.windows(3).position(|three| three == b" - ")?;
            let mut after = line[separator + 3..].split(|&byte| byte == b' ');
            let kind = after.next()?;
            let options = after.nth(1)?;
            let wanted = match version {
                Version::One => {
                    kind == b"cgroup" && options.split(|&byte| byte == b',').any(|o| o == b"memory")
                }
                Version::Two => kind == b"cgroup2",
            };
            let mut before = line[..separator].split(|&byte| byte == b' ');
            let root = before.nth(3).filter(|_| wanted)?;
            let point = before.next()?;
            let below = group.as_bytes().strip_prefix(root.strip_suffix(b"/").unwrap_or(root))?;
            // A group outside of the reader's name space is told as "/..".
            let inside = below.is_empty() || below.starts_with(b"/");
            if !inside || below.starts_with(b"/..") || point.contains(&b'\\') {
                return None;
            }
            directory.truncate(0);
            directory.push(point)?;
            let mount_len = directory.len;
            directory.push(below.strip_suffix(b"/").unwrap_or(below))?;
            Some(mount_len)
        })();
        found.is_none()
    })?;
    Ok(found)
}

/// Reads the group in `directory` and the limits of those around it, up to the mount point.
fn walk(
    kernel: &impl Files,
    version: Version,
    mut directory: Path<ROOM>,
    mount_len: usize,
) -> ControlGroup {
    let names = version.names();
    let mut group = ControlGroup::default();
    loop {
        let here = directory.len;
        let mut number = |name: &str| {
            let value = with_file(&mut directory, name, |path| bytes_in(kernel, path));
            directory.truncate(here);
            value
        };
        // A group whose parent does not hand it the controller is charged to the parent.
        let charged = group.used.is_none();
        let least = |limit: Option<u64>, other: Option<u64>| match (limit, other) {
            (Some(limit), Some(other)) => Some(limit.min(other)),
            (limit, other) => limit.or(other),
        };
        group.limit = least(group.limit, number(names.limit));
        if charged {
            group.used = number(names.used);
            group.peak = number(names.peak).filter(|_| group.used.is_some());
        }
        if version == Version::Two {
            group.slowed_from = least(group.slowed_from, number("memory.high"));
            group.swap_limit = least(group.swap_limit, number("memory.swap.max"));
            if charged {
                group.swap_used = number("memory.swap.current");
                group.pressure = with_file(&mut directory, "memory.pressure", |path| {
                    machine::pressure(kernel, path)
                });
                directory.truncate(here);
            }
        }
        let parent = directory.as_bytes()[..here].iter().rposition(|&byte| byte == b'/');
        match parent.filter(|&parent| parent >= mount_len) {
            Some(parent) => directory.truncate(parent),
            None => return group,
        }
    }
}

/// Does something with the path of a file in `directory`, which is longer by it afterwards.
fn with_file<R>(
    directory: &mut Path<ROOM>,
    name: &str,
    act: impl FnOnce(&CStr) -> Option<R>,
) -> Option<R> {
    directory.push(b"/")?;
    directory.push(name.as_bytes())?;
    act(directory.as_c_str()?)
}

fn bytes_in(kernel: &impl Files, path: &CStr) -> Option<u64> {
    parse_bytes(read(kernel, path, &mut [0; 32])?)
}

/// A number of bytes, "max" for no limit.
fn parse_bytes(text: &[u8]) -> Option<u64> {
    if text.trim_ascii() == b"max" {
        return Some(NO_LIMIT);
    }
    number(text).map(|bytes| if bytes >= NO_LIMIT_V1 { NO_LIMIT } else { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::lines::tests::reader;
    use proptest::prelude::*;
    use std::string::String;

    fn group(text: &[u8]) -> Option<(Version, String)> {
        let mut buffer = [0; 512];
        let mut group = Path::new();
        let version = membership(&mut Lines::new(reader(text, 9), &mut buffer), &mut group);
        Some((version.unwrap()?, String::from_utf8_lossy(group.as_bytes()).into_owned()))
    }

    fn directory(mounts: &[u8], version: Version, group: &str) -> Option<(String, usize)> {
        let mut path = Path::new();
        path.push(group.as_bytes()).unwrap();
        let (mut buffer, mut found) = ([0; 512], Path::new());
        let mut lines = Lines::new(reader(mounts, 9), &mut buffer);
        let len = mount_point(&mut lines, version, &path, &mut found).unwrap()?;
        Some((String::from_utf8_lossy(found.as_bytes()).into_owned(), len))
    }

    const MIXED: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:7 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_one_wins_where_it_controls_memory() {
        let mixed = b"5:devices:/\n4:cpu,memory:/job/3\n0::/user\n";
        assert_eq!(group(mixed), Some((Version::One, "/job/3".into())));
        assert_eq!(group(b"9:name=memory:/\n0::/a:b\n"), Some((Version::Two, "/a:b".into())));
        assert_eq!(group(b"0::/a\n4:memory:/b\n"), Some((Version::One, "/b".into())));
        assert_eq!(group(b"1:name=systemd:/\n"), None);
        assert_eq!(group(b"junk\n\n:\n"), None);
    }

    #[test]
    fn groups_are_found_below_their_mount() {
        let found = directory(MIXED, Version::One, "/job/3");
        assert_eq!(found, Some(("/sys/fs/cgroup/memory/job/3".into(), 21)));
        let found = directory(MIXED, Version::Two, "/");
        assert_eq!(found, Some(("/sys/fs/cgroup/unified".into(), 22)));
        // In a container, a part of the hierarchy is mounted.
        let part = b"9 8 0:1 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let found = directory(part, Version::Two, "/docker/ab/inner");
        assert_eq!(found, Some(("/sys/fs/cgroup/inner".into(), 14)));
        let found = directory(part, Version::Two, "/docker/ab");
        assert_eq!(found, Some(("/sys/fs/cgroup".into(), 14)));
        assert_eq!(directory(part, Version::Two, "/docker/abc"), None);
        assert_eq!(directory(part, Version::Two, "/other"), None);
        assert_eq!(directory(MIXED, Version::Two, "/../other"), None);
    }

    #[test]
    fn sizes_may_be_no_limit_in_either_version() {
        assert_eq!(parse_bytes(b"max\n"), Some(NO_LIMIT));
        assert_eq!(parse_bytes(b"9223372036854771712\n"), Some(NO_LIMIT));
        assert_eq!(parse_bytes(b"9223372036854710272\n"), Some(NO_LIMIT));
        assert_eq!(parse_bytes(b"1048576\n"), Some(1 << 20));
        assert_eq!(parse_bytes(b"maximal"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            text in proptest::collection::vec(any::<u8>(), 0..200),
            path in "[a-z/.]{0,30}",
            line in "[0-9 /a-z:.-]{0,60}",
        ) {
            group(&text);
            parse_bytes(&text);
            for version in [Version::One, Version::Two] {
                directory(&text, version, &path);
                let line = std::format!("1 1 0:1 {line} - cgroup2 cgroup rw,memory\n");
                directory(line.as_bytes(), version, &path);
            }
        }
    }
}
