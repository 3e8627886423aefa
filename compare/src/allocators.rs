//! Who allocates: the C library, sysmem, and peers.
//!
//! Peers that are on crates.io are built by the crate in `compare/peers`, which has a lock file of
//! its own and stands outside the workspace, because one of them needs a C++ compiler. Others are
//! taken where a distribution has installed them. What cannot be had is left out, with a line that
//! says why.

use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::measure;

/// Who allocates.
pub struct Allocator {
    pub name: String,
    pub how: How,
}

pub enum How {
    Plain,
    /// Under this `sysmem` command.
    SysmemRun(PathBuf),
    /// With this library preloaded.
    Preload {
        library: PathBuf,
        environment: Option<(&'static str, &'static str)>,
    },
}

/// A name, the feature of `compare/peers` that builds it, and what its environment says.
type Built = (&'static str, &'static str, Option<(&'static str, &'static str)>);

/// jemalloc gives memory back while nobody calls it only with a thread of its own, which is off by
/// default.
const BUILT: [Built; 4] = [
    ("mimalloc", "mimalloc", None),
    ("snmalloc", "snmalloc", None),
    ("jemalloc", "jemalloc", None),
    ("jemalloc, thread", "jemalloc", Some(("_RJEM_MALLOC_CONF", "background_thread:true"))),
];

/// Where a distribution puts them.
const INSTALLED: [(&str, &str); 1] = [("tcmalloc", "libtcmalloc_minimal.so.4")];

impl Allocator {
    /// `program` with this allocator; `sysmem run` with these options beside.
    pub fn command(
        &self,
        program: impl AsRef<OsStr>,
        options: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        match &self.how {
            How::Plain => Command::new(program),
            How::Preload { library, environment } => {
                let mut command = Command::new(program);
                command.env("LD_PRELOAD", library).envs(*environment);
                command
            }
            How::SysmemRun(sysmem) => {
                let mut command = Command::new(sysmem);
                command.args(["run", "--quiet"]).args(options).arg("--").arg(program);
                command
            }
        }
    }

    /// The figures that this program prints when it is run with these arguments on the allocator.
    pub fn figures<const N: usize>(&self, load: &[&str]) -> Result<[f64; N], Box<dyn Error>> {
        let mut command = self.command(std::env::current_exe()?, [""; 0]);
        let output = command.args(load).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{}: {load:?} ended with {}", self.name, output.status).into());
        }
        measure::figures(&String::from_utf8(output.stdout)?)
    }

    /// valgrind, with this allocator for the program that it runs.
    pub fn valgrind(&self) -> Command {
        let mut command = Command::new("valgrind");
        match &self.how {
            How::Plain => {}
            How::SysmemRun(sysmem) => {
                command.env("LD_PRELOAD", library(sysmem)).env("SYSMEM_SCAVENGER", "off");
            }
            How::Preload { library, environment } => {
                command.env("LD_PRELOAD", library).envs(*environment);
            }
        }
        command
    }
}

/// The `sysmem` command of these sources.
pub fn sysmem() -> Result<PathBuf, Box<dyn Error>> {
    // It may not have been built yet, or be older than the sources.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "-p", "sysmem-cli"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if !built.success() {
        return Err("building sysmem failed".into());
    }
    Ok(std::env::current_exe()?.with_file_name("sysmem"))
}

/// The library that this command preloads: building the command refreshes the one in Cargo's `deps`.
pub fn library(sysmem: &Path) -> PathBuf {
    sysmem.with_file_name("deps").join("libsysmem_preload.so")
}

/// The C library, sysmem, and the peers that can be had here.
pub fn all() -> Result<Vec<Allocator>, Box<dyn Error>> {
    let sysmem = Allocator { name: "sysmem run".into(), how: How::SysmemRun(sysmem()?) };
    let mut allocators = others()?;
    allocators.insert(1, sysmem);
    Ok(allocators)
}

/// The C library, and the peers that can be had here: nothing of sysmem need be built for them.
pub fn others() -> Result<Vec<Allocator>, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let mut allocators = vec![Allocator { name: "plain".into(), how: How::Plain }];
    let target = this.parent().and_then(Path::parent).ok_or("where is the target folder?")?;
    let mut preload = |name: &str, library, environment| {
        let how = How::Preload { library, environment };
        allocators.push(Allocator { name: name.into(), how });
    };
    for (name, feature, environment) in BUILT {
        match build(feature, &target.join("peers").join(feature)) {
            Ok(library) => preload(name, library, environment),
            Err(reason) => eprintln!("{name}: left out, {reason}"),
        }
    }
    for (name, file) in INSTALLED {
        match installed(file) {
            Some(library) => preload(name, library, None),
            None => eprintln!("{name}: left out, {file} is not installed"),
        }
    }
    Ok(allocators)
}

/// Builds one peer into `target`; the library, or why there is none.
fn build(name: &str, target: &Path) -> Result<PathBuf, String> {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--locked", "--features", name, "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))
        .output()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(target.join("release/libpeers.so"));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().find(|line| line.contains("error")).unwrap_or("cargo says nothing");
    Err(format!("building it failed (it needs the network and a C++ compiler): {}", why.trim()))
}

fn installed(file: &str) -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [multiarch.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"]
        .map(|folder| Path::new(folder).join(file))
        .into_iter()
        .find(|path| path.exists())
}
