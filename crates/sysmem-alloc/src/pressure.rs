//! Whether others wait for memory: the pressure that Linux tells of the control group, or of the
//! machine (PSI, Documentation/accounting/psi.rst).

use core::time::Duration;

use sysmem::usage::{self, Process};

/// How often the system is asked. While it is, a file is open for some microseconds, which takes the
/// lowest free descriptor.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// The part of the time, as a divisor, for which somebody waited.
const SHORT_FROM: u32 = 100;

pub(crate) struct Gauge {
    asked: Option<Duration>,
    /// How long somebody had waited in all by then.
    waited: Duration,
    pub(crate) short: bool,
}

impl Gauge {
    pub(crate) const fn new() -> Gauge {
        Gauge { asked: None, waited: Duration::ZERO, short: false }
    }

    /// Asks the system, if it is time to.
    pub(crate) fn read(&mut self, now: Duration) {
        if self.asked.is_none_or(|asked| now >= asked + ASK_EVERY) {
            let group = usage::control_group(Process::Own).ok().and_then(|group| group.pressure);
            let pressure = group.or_else(|| usage::machine().ok()?.pressure);
            self.update(now, pressure.map(|pressure| pressure.some.total));
        }
    }

    fn update(&mut self, now: Duration, waited: Option<Duration>) {
        let waited = waited.unwrap_or(self.waited);
        if let Some(asked) = self.asked {
            let part = now.saturating_sub(asked) / SHORT_FROM;
            self.short = waited.saturating_sub(self.waited) > part;
        }
        (self.asked, self.waited) = (Some(now), waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_while_somebody_waits_a_hundredth_of_the_time() {
        let mut gauge = Gauge::new();
        let mut at = |seconds, waited: Option<u64>| {
            gauge.update(Duration::from_secs(seconds), waited.map(Duration::from_millis));
            gauge.short
        };
        assert!(!at(100, Some(5000)), "what was before is no news");
        assert!(!at(102, Some(5019)));
        assert!(at(104, Some(5040)));
        assert!(!at(106, Some(5040)));
        assert!(!at(108, None));
    }
}
