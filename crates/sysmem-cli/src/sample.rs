//! Samples what the kernel says about the program while it runs.
//!
//! One `/proc/<pid>/status` ten times a second, some 15 µs each: for a program that is killed, ends
//! without its exit handlers or publishes nothing, it is all there is.

use rustix::process::Pid;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use sysmem_alloc::figures::KernelFigures;

/// The time from one sample to the next.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// What was seen of the program from outside.
#[derive(Default)]
pub struct Sampled {
    /// How many samples were taken.
    pub count: u64,
    /// The greatest peak of resident memory in any sample; the kernel's own peak begins anew with
    /// each exec.
    pub peak_resident_bytes: u64,
    /// The latest sample.
    pub last: KernelFigures,
}

/// Takes samples of one process.
pub struct Sampler {
    status: Option<File>,
    pub sampled: Sampled,
}

impl Sampler {
    pub fn new(process: Pid) -> Self {
        let path = format!("/proc/{}/status", process.as_raw_nonzero());
        Self { status: File::open(path).ok(), sampled: Sampled::default() }
    }

    /// Takes one sample; does nothing when the process has no memory any more.
    pub fn take(&mut self) {
        let Some(status) = &self.status else { return };
        let mut buffer = [0; 4096];
        let Ok(length) = status.read_at(&mut buffer, 0) else { return };
        let mut now = KernelFigures::default();
        now.read_status(&buffer[..length]);
        if now.peak_resident_bytes > 0 {
            let sampled = &mut self.sampled;
            sampled.count += 1;
            sampled.peak_resident_bytes = sampled.peak_resident_bytes.max(now.peak_resident_bytes);
            sampled.last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_sampled_until_it_has_no_memory() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let mut sampler = Sampler::new(Pid::from_raw(child.id() as i32).unwrap());
        sampler.take();
        assert_eq!(sampler.sampled.count, 1);
        let peak = sampler.sampled.peak_resident_bytes;
        assert!(peak >= sampler.sampled.last.resident_bytes && peak > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        sampler.take();
        assert_eq!(sampler.sampled.count, 1);
        assert_eq!(sampler.sampled.peak_resident_bytes, peak);
    }
}
