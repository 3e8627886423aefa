//! The report as text for people: aligned, in human units; with a picture on a terminal.

use crate::report::{Ending, Heap, Kernel, Process, Report, Source};
use crate::words::{bytes, counted, duration, grouped, printable};
use std::fmt::Write;
use std::io::IsTerminal;

/// How many descendants the table shows; the JSON has them all.
const DESCENDANTS_SHOWN: usize = 10;

/// How wide the picture of the heap is, in characters.
const PICTURE_WIDTH: u64 = 52;

/// How much of the command line the headline shows, in characters.
const HEADLINE_WIDTH: usize = 72;

/// How wide a note is on a terminal, in characters.
const NOTE_WIDTH: usize = 79;

/// What the reader's screen can show.
#[derive(Clone, Copy)]
pub struct Style {
    /// A terminal is there to draw on.
    pub picture: bool,
    /// The terminal shows colours, and the reader wants them.
    pub color: bool,
    /// The terminal shows more than ASCII.
    pub unicode: bool,
}

impl Style {
    /// What standard error is: plain where it is no terminal; no colours where NO_COLOR is set
    /// (no-color.org).
    pub fn of_stderr() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let picture = std::io::stderr().is_terminal();
        let color =
            picture && set("NO_COLOR").is_none() && set("TERM").is_some_and(|t| t != "dumb");
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        Self { picture, color, unicode: locale.contains("utf-8") || locale.contains("utf8") }
    }
}

/// The report as text.
pub fn render(report: &Report, style: Style) -> String {
    let mut page = Page(String::new());
    page.line(&format!("sysmem: {}", shorten(&report.arguments.join(" "))));
    page.line(&format!("        {}", report.end));
    page.line("");
    let time = &report.time;
    page.row("wall time", duration(time.wall_ns), "");
    let cpu = duration(time.user_ns + time.system_ns);
    let (user, system) = (duration(time.user_ns), duration(time.system_ns));
    page.row("CPU time", cpu, &format!("user {user}, system {system}"));
    page.line("");
    page.resident(&report.program);
    if let Some(heap) = &report.program.heap {
        page.heap(heap, report.program.kernel.as_ref(), style);
        if let Some(kernel) = &report.program.kernel {
            page.comparison(kernel, heap, report.program.ending);
        }
    }
    page.descendants(&report.descendants);
    for note in &report.notes {
        page.line("");
        page.note(note, style);
    }
    page.0
}

/// The lines written so far.
struct Page(String);

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    fn row(&mut self, label: &str, value: String, remark: &str) {
        self.line(&format!("  {label:<24}{value:>11}   {remark}"));
    }

    /// A sentence, on a terminal in lines of its width.
    fn note(&mut self, note: &str, style: Style) {
        let width = if style.picture { NOTE_WIDTH } else { usize::MAX };
        let mut line = "  note:".to_owned();
        for word in note.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > width {
                self.line(&line);
                line = " ".repeat(7);
            }
            line += " ";
            line += word;
        }
        self.line(&line);
    }

    fn resident(&mut self, program: &Process) {
        let source = |source| match source {
            Source::Published => "",
            Source::Sampled => "sampled from outside",
            Source::None => "could not be read",
        };
        let (peak, last) = (program.peak_resident, program.final_resident);
        self.row("peak resident", bytes(peak.bytes), source(peak.source));
        let label = match program.ending {
            Ending::Exited => "resident at exit",
            Ending::Unknown => "resident last seen",
        };
        self.row(label, bytes(last.bytes), source(last.source));
        if program.images.len() > 1 {
            let names: Vec<&str> = program.images.iter().map(|image| &image.name[..]).collect();
            let images = program.images.len();
            self.row("programs executed", images.to_string(), &shorten(&names.join(", ")));
        }
    }

    fn heap(&mut self, heap: &Heap, kernel: Option<&Kernel>, style: Style) {
        let allocations = format!("in {}", counted(heap.allocations, "allocation"));
        let frees = format!("in {}", counted(heap.frees, "free"));
        self.row("asked for", bytes(heap.requested_bytes), &allocations);
        let rounded = percent(
            heap.allocated_bytes.saturating_sub(heap.requested_bytes),
            heap.requested_bytes,
        );
        let remark = format!("{rounded} more than asked for, by rounding");
        self.row("  in blocks of", bytes(heap.allocated_bytes), &remark);
        self.row("  freed", bytes(heap.freed_bytes), &frees);
        self.line("");
        self.row("page heap in use", bytes(heap.in_use_bytes), "objects, and caches for them");
        self.row("  free", bytes(heap.free_bytes), "backed by memory, ready for use");
        self.row(
            "  given back",
            bytes(heap.given_back_bytes),
            "without memory: returned, or not used yet",
        );
        self.row("    ever", bytes(heap.released_bytes), "added up");
        let remark = format!("in {} of CPU time", duration(heap.scavenger_cpu_ns));
        self.row("    scavenger", bytes(heap.scavenger_released_bytes), &remark);
        self.row("  metadata", bytes(heap.metadata_bytes), "");
        self.row("  mappings", grouped(heap.mappings), "");
        if style.picture {
            self.picture(heap, style);
        }
        if let Some(kernel) = kernel.filter(|kernel| kernel.huge_page_bytes > 0) {
            let cover = percent(kernel.huge_page_bytes, kernel.resident_anonymous_bytes);
            let remark = format!("{cover} of anonymous memory");
            self.row("in huge pages", bytes(kernel.huge_page_bytes), &remark);
        } else {
            self.row("in huge pages", bytes(0), "");
        }
    }

    /// The page heap as a bar, each part as long as its share.
    fn picture(&mut self, heap: &Heap, style: Style) {
        let parts = [
            (heap.in_use_bytes, "in use", '█', '#', "36"),
            (heap.free_bytes, "free", '▒', '=', "33"),
            (heap.given_back_bytes, "given back", '░', '.', "90"),
        ];
        let total: u64 = parts.iter().map(|part| part.0).sum();
        if total == 0 {
            return;
        }
        let (mut bar, mut legend) = (String::new(), String::new());
        let (mut passed, mut drawn) = (0, 0);
        for (size, name, block, plain, color) in parts {
            passed += size;
            let end = scaled(passed, PICTURE_WIDTH, total);
            let sign = if style.unicode { block } else { plain };
            let mut run = sign.to_string().repeat((end - drawn) as usize);
            let mut key = sign.to_string();
            if style.color {
                for text in [&mut run, &mut key] {
                    *text = format!("\x1b[{color}m{text}\x1b[0m");
                }
            }
            bar.push_str(&run);
            let _ = write!(legend, "  {key} {name}");
            drawn = end;
        }
        self.line(&format!("  [{bar}]{legend}"));
    }

    /// The kernel's figure for the process, taken apart until what is left is our count.
    fn comparison(&mut self, kernel: &Kernel, heap: &Heap, ending: Ending) {
        self.line("");
        self.line(match ending {
            Ending::Exited => "  what the kernel counts, against what we count, at exit",
            Ending::Unknown => "  what the kernel counts, against what we count, last seen",
        });
        self.row("resident", bytes(kernel.resident_bytes), "the kernel's count");
        let files = "pages of files: the program, its libraries";
        self.row("  of files", bytes(kernel.resident_file_bytes), files);
        self.row("  shared", bytes(kernel.resident_shared_bytes), "shared memory");
        let anonymous = kernel.resident_anonymous_bytes;
        self.row("  anonymous", bytes(anonymous), "");
        if kernel.lazily_freed_bytes > 0 {
            let remark = "of that given back lazily, the kernel may take it";
            self.row("    lazily freed", bytes(kernel.lazily_freed_bytes), remark);
        }
        if kernel.swapped_bytes > 0 {
            self.row("swapped out", bytes(kernel.swapped_bytes), "");
        }
        self.row("ready", bytes(heap.ready_bytes), "our count: memory that may be touched");
        if anonymous >= heap.ready_bytes {
            let remark = "anonymous beyond ours: stacks, data, other mappings";
            self.row("  not ours", bytes(anonymous - heap.ready_bytes), remark);
        } else {
            let remark = "of that without memory: never touched, or swapped";
            self.row("  not resident", bytes(heap.ready_bytes - anonymous), remark);
        }
    }

    fn descendants(&mut self, descendants: &[Process]) {
        if descendants.is_empty() {
            return;
        }
        self.line("");
        let count = descendants.len();
        let processes = if count == 1 { "process" } else { "processes" };
        self.line(&format!("  {count} other {processes}, greatest peak first"));
        self.line("        pid        peak        last   asked for   program");
        for process in &descendants[..count.min(DESCENDANTS_SHOWN)] {
            let asked = process.heap.as_ref().map_or(0, |heap| heap.requested_bytes);
            let line = format!(
                "  {:>9}{:>12}{:>12}{:>12}   {}{}",
                process.pid,
                bytes(process.peak_resident.bytes),
                bytes(process.final_resident.bytes),
                bytes(asked),
                printable(&process.name),
                if process.ending == Ending::Exited { "" } else { " (no exit seen)" },
            );
            self.line(&line);
        }
        if count > DESCENDANTS_SHOWN {
            let more = count - DESCENDANTS_SHOWN;
            self.line(&format!("  and {more} more; --json FILE has them all"));
        }
    }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{} %", scaled(part, 100, whole.max(1)))
}

/// `part` of `whole`, on a scale from 0 to `scale`.
fn scaled(part: u64, scale: u64, whole: u64) -> u64 {
    (u128::from(part) * u128::from(scale) / u128::from(whole)) as u64
}

/// A command line cut to the width of a headline.
fn shorten(line: &str) -> String {
    let line = printable(line);
    match line.char_indices().nth(HEADLINE_WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Image;
    use crate::report::tests::{image, report};

    const PLAIN: Style = Style { picture: false, color: false, unicode: false };

    #[test]
    fn the_picture_has_its_width_whatever_the_shares() {
        let style = Style { picture: true, ..PLAIN };
        for sizes in [[1, 0, 0], [1, 1, 1], [u64::MAX / 4, 3, u64::MAX / 4], [0, 0, 7]] {
            let mut program = image(7, 1, "sort", 4096);
            program.heap.in_use_bytes = sizes[0];
            program.heap.free_bytes = sizes[1];
            program.heap.given_back_bytes = sizes[2];
            let text = render(&report(vec![program]), style);
            let bar = text.lines().find(|line| line.starts_with("  [")).expect("a picture");
            let width = bar.find(']').unwrap() - bar.find('[').unwrap() - 1;
            assert_eq!(width as u64, PICTURE_WIDTH, "{sizes:?}: {bar}");
        }
    }

    #[test]
    fn plain_text_has_no_picture_and_no_escapes_whatever_the_names() {
        let text =
            render(&report(vec![image(7, 1, "a\x1b[31m", 4096), image(8, 1, "\x07", 9)]), PLAIN);
        assert!(text.is_ascii(), "{text}");
        assert!(!text.contains(|sign: char| sign.is_control() && sign != '\n'), "{text:?}");
        assert!(!text.contains('['), "{text}");
        assert!(!text.lines().any(|line| line.ends_with(' ')), "{text:?}");
    }

    #[test]
    fn a_long_table_says_how_much_it_leaves_out() {
        let images: Vec<Image> = (0..30).map(|n| image(7 + n, 1, "worker", 4096 + n)).collect();
        let text = render(&report(images), PLAIN);
        assert!(text.contains("29 other processes"), "{text}");
        assert!(text.contains("and 19 more"), "{text}");
        assert_eq!(text.matches("worker").count(), DESCENDANTS_SHOWN);
        assert!(text.find("       36").unwrap() < text.find("       35").unwrap(), "{text}");
    }
}
