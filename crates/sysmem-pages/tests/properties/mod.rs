//! How properties are checked.

use proptest::prelude::ProptestConfig;

/// So many cases, or by as much more as `PROPTEST_CASES` is above its default of 256. A failure
/// prints its steps; nothing is written beside the sources.
pub fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = (u64::from(cases) * u64::from(default.cases)).div_ceil(256) as u32;
    ProptestConfig { cases, failure_persistence: None, ..default }
}
