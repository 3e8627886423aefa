//! The profile as folded stacks, for flame graphs: a line for each stack, the outermost function
//! first, and how many bytes it held when the run held the most.

use super::Profile;
use std::collections::BTreeMap;
use std::io;

pub fn render(profile: &Profile) -> io::Result<Vec<u8>> {
    let mut lines: BTreeMap<String, f64> = BTreeMap::new();
    for entry in &profile.entries {
        let mut names = vec![cleaned(&entry.process)];
        for frame in entry.frames.iter().rev() {
            let functions = profile.named.get(frame).map_or(&[][..], |functions| &functions[..]);
            names.extend(functions.iter().rev().map(|function| cleaned(&function.name)));
        }
        *lines.entry(names.join(";")).or_default() += entry.held.at_peak.bytes;
    }
    let lines = lines.iter().filter(|(_, bytes)| **bytes >= 0.5);
    let text: String = lines.map(|(stack, bytes)| format!("{stack} {:.0}\n", bytes)).collect();
    Ok(text.into_bytes())
}

/// A name without the signs that part stacks and lines.
fn cleaned(name: &str) -> String {
    let sign = |sign| match sign {
        ';' => ':',
        sign if char::is_control(sign) => '?',
        sign => sign,
    };
    name.chars().map(sign).collect()
}
