//! The report as a page: what it says without a browser, and what a real one draws of it.

mod harness;

use harness::*;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A run of a program, with its page and its JSON.
struct Reported {
    page: String,
    json: Value,
}

fn report<S: AsRef<OsStr>>(program: &[S]) -> Reported {
    let (page, json) = (scratch("report.html"), scratch("report.json"));
    let mut command = sysmem_run();
    command.args(["--quiet", "--report"]).arg(&page).arg("--json").arg(&json);
    command.arg("--").args(program);
    let output = output(command, b"");
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        text.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    Reported { page: read(&page), json: serde_json::from_str(&read(&json)).unwrap() }
}

fn figure(json: &Value, path: &str) -> u64 {
    json.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path} in {json:#}"))
}

fn count(json: &Value, path: &str) -> usize {
    json.pointer(path).and_then(Value::as_array).map_or(0, Vec::len)
}

#[test]
fn a_page_is_whole_in_itself_and_small() {
    let program = compile("gives_back.c", &[]);
    let reported = report(&[program.to_str().unwrap(), "1000"]);
    let page = &reported.page;
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    for fetched in ["http://", "https://", "src=", "@import", "url(", "<link rel=\"stylesheet\""] {
        assert!(!page.contains(fetched), "{fetched}");
    }
    assert!(page.contains("default-src 'none'"));
    for words in ["held at most", "Memory over time", "Page heap", "Allocation sizes"] {
        assert!(page.contains(words), "no {words:?}");
    }
    assert!(page.matches("<svg").count() >= 4);
}

#[test]
fn a_run_of_a_moment_still_gives_a_page() {
    let reported = report(&["true"]);
    for words in ["held at most", "Memory over time", "Allocation sizes"] {
        assert!(reported.page.contains(words), "no {words:?}");
    }
}

#[test]
fn a_program_that_publishes_nothing_gives_a_page_of_what_the_kernel_says() {
    let reported = report(&["env", "-u", "SYSMEM_FIGURES", "sleep", "0.3"]);
    assert!(reported.page.contains("held at most"));
    assert!(reported.page.contains("ended without its exit handlers"));
}

#[test]
fn a_program_that_was_killed_is_told_with_the_age_of_its_figures() {
    let reported = report(&["sh", "-c", "sleep 0.2; kill -KILL $$"]);
    assert!(reported.page.contains("when it was killed"));
    let note = reported.json["notes"][0].as_str().unwrap();
    assert!(note.contains("sh was killed") && note.contains("ms before the end"), "{note}");
    let published = figure(&reported.json, "/program/heap_published_ns");
    assert!(published < figure(&reported.json, "/time/wall_ns") - 100_000_000, "{note}");
}

#[test]
fn the_heap_is_told_as_of_the_end_only_where_the_program_exited() {
    let (last, end) = ("When it was last drawn, at", "<h3>At the end, at");
    let exited = report(&[compile("gives_back.c", &[]).to_str().unwrap(), "1000"]).page;
    assert!(exited.contains(end) && !exited.contains(last));
    let line = format!("(sleep 1; kill -KILL $$) & exec {}", compile("drops.c", &[]).display());
    let killed = report(&["sh", "-c", &line]).page;
    assert!(killed.contains(last) && !killed.contains(end));
}

#[test]
fn of_many_processes_the_greatest_are_in_the_page_and_the_largest_is_said() {
    let program = compile("gives_back.c", &[]);
    let line = format!("for i in $(seq 100); do /bin/true; done; {} 1000", program.display());
    let reported = report(&["sh", "-c", &line]);
    assert_eq!(count(&reported.json, "/descendants"), 102);
    assert!(reported.page.contains("And 62 more."));
    let held = "Of the processes that it started, ";
    assert!(reported.page.contains(held) && reported.page.contains("gives_back"), "{held}");
    assert!(reported.page.len() < 512 << 10, "{} bytes", reported.page.len());
}

#[test]
fn names_and_arguments_stay_text() {
    let reported = report(&["sh", "-c", ": '</script><script>alert(1)</script><b>'; exit 0"]);
    assert!(!reported.page.contains("<script>alert"), "{}", reported.page);
    assert!(!reported.page.contains("<b>'"), "{}", reported.page);
}

#[test]
fn the_course_and_the_sizes_are_in_the_json_and_agree_with_the_sums() {
    let program = compile("gives_back.c", &[]);
    let json = report(&[program.to_str().unwrap(), "1000"]).json;
    let course = json["program"]["course"].as_array().unwrap();
    assert!(course.len() >= 3, "{course:?}");
    let times: Vec<u64> = course.iter().map(|point| figure(point, "/time_ns")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(*times.last().unwrap() <= figure(&json, "/time/wall_ns"));
    let last = course.last().unwrap();
    let resident = figure(&json, "/program/final_resident/bytes");
    assert_eq!(figure(last, "/resident_bytes"), resident);
    assert_eq!(figure(last, "/in_use_bytes"), figure(&json, "/program/heap/in_use_bytes"));

    let classes = json["program"]["size_classes"].as_array().unwrap();
    for name in ["allocations", "frees", "requested_bytes", "allocated_bytes", "freed_bytes"] {
        let sum: u64 = classes.iter().map(|class| class[name].as_u64().unwrap()).sum();
        assert_eq!(sum, figure(&json, &format!("/program/heap/{name}")), "{name}");
    }
    // The picture at the end adds up to the figures at the end. It has whole pages of the heap, of
    // which parts may have been given back.
    let map = &json["program"]["page_heap"]["at_end"];
    let cells = map["cells"].as_array().unwrap();
    assert_eq!(cells.len() as u64, figure(map, "/huge_pages"));
    let in_use: u64 = cells.iter().map(|cell| cell["in_use"].as_u64().unwrap()).sum();
    let page = figure(map, "/page_bytes");
    let told = figure(&json, "/program/heap/in_use_bytes");
    assert!((in_use * page).abs_diff(told) < page, "{in_use} pages, {told} bytes");
}

/// Chromium, if it is installed.
fn chromium() -> Option<PathBuf> {
    installed("chromium")
}

/// A Chromium without a window and without a network, which ends by itself.
fn headless(chromium: &Path, name: &str) -> Command {
    let mut command = Command::new(chromium);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", scratch_directory(name).display()));
    command
}

/// Put before everything else on the page: keeps what goes wrong.
const WATCH: &str = "<script>
window.failures = [];
addEventListener('error', (event) => failures.push(event.message));
addEventListener('securitypolicyviolation', (event) => failures.push(event.violatedDirective));
</script>";

/// Put behind everything else: does what a reader does, and writes down what is seen.
const READ: &str = "<script>
addEventListener('load', () => {
  const seen = { tips: {}, drawn: {} };
  const tip = document.getElementById('tip');
  for (const id of ['timeline', 'heap-end', 'size-bars']) {
    const svg = document.getElementById(id);
    if (!svg) continue;
    svg.dispatchEvent(new KeyboardEvent('keydown', { key: 'End' }));
    seen.tips[id] = tip.hidden ? '' : tip.textContent;
    svg.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }));
    seen.tips[id + '-gone'] = tip.hidden;
    const box = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent('pointermove', {
      clientX: box.left + box.width * 0.5, clientY: box.top + 8 }));
    seen.tips[id + '-pointer'] = tip.hidden ? '' : tip.textContent;
    svg.dispatchEvent(new PointerEvent('pointerleave'));
  }
  const box = (selector) => {
    const element = document.querySelector(selector);
    const box = element ? element.getBBox() : { width: 0, height: 0 };
    return [box.width, box.height];
  };
  for (const selector of ['#timeline .resident', '#timeline .in-use', '#timeline .given-back',
    '#heap-end .given-back', '#heap-end .unmapped', '#spaces .part', '#size-bars .asked']) {
    seen.drawn[selector] = box(selector);
  }
  const corners = (selector) => {
    const path = document.querySelector(selector);
    return path ? (path.getAttribute('d').match(/[ML]/g) || []).length : 0;
  };
  seen.course = corners('#timeline .resident');
  seen.cells = corners('#heap-end .unmapped');
  seen.bars = document.querySelectorAll('#size-bars rect.asked').length;
  seen.peak = document.getElementById('peak').textContent;
  seen.remains = document.getElementById('remains').textContent;
  seen.colors = ['in-use', 'free', 'given-back'].map((name) => {
    const key = document.querySelector('.legend .' + name);
    return key ? getComputedStyle(key).fill : '';
  });
  seen.paper = getComputedStyle(document.documentElement).backgroundColor;
  // What is written outside of its picture is cut off on paper.
  seen.clipped = [...document.querySelectorAll('svg.chart text')].filter((text) => {
    const box = text.getBBox(), all = text.ownerSVGElement.viewBox.baseVal;
    return box.x < 0 || box.y < 0 || box.x + box.width > all.width || box.y + box.height > all.height;
  }).map((text) => text.textContent);
  seen.wide = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
  seen.failures = window.failures;
  const out = document.createElement('pre');
  out.id = 'seen';
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>";

/// What a browser sees of a page in a window so wide, light or dark.
fn look(chromium: &Path, page: &str, width: u32, dark: bool) -> Value {
    let watched = page.replacen("<head>", &format!("<head>{WATCH}"), 1);
    let watched = watched.replacen("</body>", &format!("{READ}</body>"), 1);
    let file = scratch("watched.html");
    std::fs::write(&file, watched).unwrap();
    let mut command = headless(chromium, "profile");
    command.args(["--dump-dom", "--virtual-time-budget=3000"]);
    command.arg(format!("--window-size={width},1400"));
    // The number of the dark scheme in Blink's settings.
    command.arg(format!("--blink-settings=preferredColorScheme={}", u32::from(!dark)));
    command.arg(format!("file://{}", file.display()));
    let output = output(command, b"");
    let dom = String::from_utf8_lossy(&output.stdout);
    let seen = dom.split("<pre id=\"seen\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let seen = seen.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let seen = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&seen).unwrap()
}

#[test]
fn pages_of_all_kinds_of_runs_fit_into_windows_wide_and_narrow_light_and_dark() {
    let Some(chromium) = chromium() else { return };
    let gives_back = compile("gives_back.c", &[]);
    let long = gives_back.with_file_name(format!("{}-and-on", "a-name-that-goes-on".repeat(8)));
    std::fs::copy(&gives_back, &long).unwrap();
    let program = gives_back.display();
    let runs = [
        ("a moment", report(&["sleep", "0.01"])),
        ("a long name", report(&[long.as_os_str(), "3000".as_ref()])),
        (
            "several processes",
            report(&["sh", "-c", &format!("{program} 900 & {program} 5000; wait")]),
        ),
        ("more than 512 huge pages", report(&[compile("large_heap.c", &[])])),
        (
            "no heap of ours",
            report(&[
                "sh",
                "-c",
                &format!("exec {}", compile("large_heap.c", &["-static"]).display()),
            ]),
        ),
    ];
    assert!(figure(&runs[3].1.json, "/program/page_heap/at_end/huge_pages") > 512);
    for (run, reported) in &runs {
        for (width, dark) in [(1100, false), (500, true)] {
            let seen = look(&chromium, &reported.page, width, dark);
            assert_eq!(seen["failures"], serde_json::json!([]), "{run}: {seen:#}");
            assert_eq!(seen["clipped"], serde_json::json!([]), "{run}: {seen:#}");
            assert_eq!(seen["wide"], true, "{run}, {width}: {seen:#}");
            let paper = lightness(seen["paper"].as_str().unwrap());
            assert_eq!(paper < 0.5, dark, "{run}: {seen:#}");
        }
    }
}

#[test]
fn a_browser_draws_what_the_json_says_and_no_script_fails() {
    let Some(chromium) = chromium() else { return };
    let program = compile("gives_back.c", &[]);
    let Reported { page, json } = report(&[program.to_str().unwrap(), "1000"]);
    let seen = look(&chromium, &page, 1100, false);
    assert_eq!(seen["failures"], serde_json::json!([]), "{seen:#}");
    assert_eq!(seen["wide"], true, "it is as wide as the window: {seen:#}");
    // As many things are drawn as there are in the JSON.
    assert_eq!(figure(&seen, "/course") as usize, count(&json, "/program/course"));
    assert_eq!(figure(&seen, "/cells") as usize, count(&json, "/program/page_heap/at_end/cells"));
    assert_eq!(figure(&seen, "/bars") as usize, count(&json, "/program/size_classes"));
    for (what, size) in seen["drawn"].as_object().unwrap() {
        let size: Vec<f64> = serde_json::from_value(size.clone()).unwrap();
        assert!(size[0] > 0.0 && size[1] > 0.0, "{what} is not drawn: {seen:#}");
    }
    // The numbers are those of the JSON.
    let mebibytes = |path: &str| format!("{:.1} MiB", figure(&json, path) as f64 / 1048576.0);
    assert_eq!(seen["peak"], mebibytes("/program/peak_resident/bytes"), "{seen:#}");
    let tip = seen["tips"]["timeline"].as_str().unwrap();
    assert!(tip.contains(seen["remains"].as_str().unwrap()), "{seen:#}");
    for picture in ["timeline", "heap-end", "size-bars"] {
        let tips = &seen["tips"];
        assert_ne!(tips[picture], "", "the keys tell nothing on {picture}: {seen:#}");
        assert_eq!(tips[format!("{picture}-gone")], true, "{seen:#}");
    }
    assert_ne!(seen["tips"]["timeline-pointer"], "", "{seen:#}");
    // Three colours that differ in lightness, for eyes that see no hue.
    let light: Vec<f64> = seen["colors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|color| lightness(color.as_str().unwrap()))
        .collect();
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        assert!((light[one] - light[other]).abs() > 0.12, "{light:?} of {seen:#}");
    }
}

/// How light `rgb(…)` is, from 0 to 1 (relative luminance without its curve).
fn lightness(color: &str) -> f64 {
    let numbers: Vec<f64> = color
        .split(|sign: char| !sign.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    (0.2126 * numbers[0] + 0.7152 * numbers[1] + 0.0722 * numbers[2]) / 255.0
}

#[test]
fn a_browser_takes_a_picture_of_the_page_and_prints_it() {
    let Some(chromium) = chromium() else { return };
    let program = compile("gives_back.c", &[]);
    let page = scratch("shown.html");
    std::fs::write(&page, report(&[program.to_str().unwrap(), "1000"]).page).unwrap();
    let (picture, print) = (scratch("report.png"), scratch("report.pdf"));
    for option in [
        format!("--screenshot={}", picture.display()),
        format!("--print-to-pdf={}", print.display()),
    ] {
        let mut command = headless(&chromium, "shots");
        command.args(["--hide-scrollbars", "--window-size=1100,1500", &option]);
        command.arg(format!("file://{}", page.display()));
        let output = output(command, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let picture = std::fs::read(&picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    assert!(picture.len() > 20_000, "a blank page has fewer bytes than {}", picture.len());
    let print = std::fs::read(&print).unwrap();
    let pages = print.windows(11).filter(|window| window.starts_with(b"/Type /Page")).count();
    assert!(print.starts_with(b"%PDF") && (2..12).contains(&pages), "{pages} pages");
}

/// Where words are on the pages of a print, by PyMuPDF: the page and the right edge of each.
const WORDS: &str = "
import json, sys, pymupdf
print(json.dumps([[number, page.rect.width, word[2], word[4]]
    for number, page in enumerate(pymupdf.open(sys.argv[1])) for word in page.get_text('words')]))";

#[test]
fn on_paper_no_picture_is_parted_from_its_heading_and_no_label_is_cut_off() {
    let Some(chromium) = chromium() else { return };
    let Some(python) = installed("python3") else { return };
    if !Command::new(&python).args(["-c", "import pymupdf"]).output().unwrap().status.success() {
        println!("skipped, as PyMuPDF is not installed");
        return;
    }
    let program = compile("gives_back.c", &[]);
    let (page, print) = (scratch("printed.html"), scratch("printed.pdf"));
    std::fs::write(&page, report(&[program.to_str().unwrap(), "1000"]).page).unwrap();
    let mut command = headless(&chromium, "print");
    command.arg(format!("--print-to-pdf={}", print.display()));
    command.arg(format!("file://{}", page.display()));
    assert!(output(command, b"").status.success());
    let words = Command::new(python).args(["-c", WORDS]).arg(print).output().unwrap();
    let words: Vec<(usize, f64, f64, String)> = serde_json::from_slice(&words.stdout).unwrap();
    for (_, width, right, word) in &words {
        assert!(right < width, "{word:?} ends at {right} of {width}");
    }
    let pages: Vec<usize> = words.iter().map(|word| word.0).collect();
    let text: Vec<&str> = words.iter().map(|word| &word.3[..]).collect();
    let page_of = |phrase: &str| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        let at = text.windows(phrase.len()).position(|words| words == phrase);
        pages[at.unwrap_or_else(|| panic!("no {phrase:?} in {text:?}"))]
    };
    for (heading, end_of_picture) in [
        ("Memory over time", "time since the start"),
        ("Address space", "memory without a name"),
        ("Page heap", "never mapped"),
        ("Allocation sizes", "size of block"),
    ] {
        assert_eq!(page_of(heading), page_of(end_of_picture), "{heading}: {text:?}");
    }
}
