//! Figures in the OpenMetrics text format, version 1.0.0.

use crate::measured::{Figure, Section, Unit};
use std::fmt::Write;
use sysmem::usage::NO_LIMIT;

/// The figures that the system tells; each is a metric family of one sample.
pub fn render(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let words: Vec<(&str, String)> = section
            .words
            .iter()
            .filter_map(|word| Some((word.name, word.value?.to_owned())))
            .collect();
        if !words.is_empty() {
            let name = format!("sysmem_{}", section.key);
            let _ = writeln!(text, "# TYPE {name} info");
            let _ = writeln!(text, "# HELP {name} How it is set.");
            let labels = labels(section.labels.iter().chain(&words));
            let _ = writeln!(text, "{name}_info{labels} 1");
        }
        // A label is indented below that of what it is part of.
        let mut label: Vec<&str> = Vec::new();
        for figure in &section.figures {
            let own = figure.label.trim_start();
            label.truncate((figure.label.len() - own.len()) / 2);
            label.push(own);
            if let Some(value) = figure.value {
                family(&mut text, section, figure, &label.join(", "), value);
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn family(text: &mut String, section: &Section, figure: &Figure, label: &str, value: u64) {
    // Base units only; a unit is the end of the name.
    let (unit, value) = match (figure.unit, value) {
        (Unit::Bytes, NO_LIMIT) => ("bytes", "+Inf".to_owned()),
        (Unit::Bytes, value) => ("bytes", value.to_string()),
        (Unit::Count, value) => ("", value.to_string()),
        (Unit::Nanoseconds, ns) => {
            ("seconds", format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000))
        }
        (Unit::Share, share) => ("ratio", format!("{}.{:04}", share / 10_000, share % 10_000)),
    };
    let mut name = format!("sysmem_{}_{}", section.key, figure.name);
    if !unit.is_empty() {
        name = format!("{name}_{unit}");
    }
    let kind = if figure.counter { "counter" } else { "gauge" };
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if !unit.is_empty() {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let remark = figure.remark;
    let help = if remark.is_empty() { label.to_owned() } else { format!("{label}: {remark}") };
    let _ = writeln!(text, "# HELP {name} {}", escaped(&help));
    let total = if figure.counter { "_total" } else { "" };
    let _ = writeln!(text, "{name}{total}{} {value}", labels(section.labels.iter()));
}

fn labels<'a>(labels: impl Iterator<Item = &'a (&'static str, String)>) -> String {
    let labels: Vec<String> =
        labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
