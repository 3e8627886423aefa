//! Real programs, plain and on sysmem, and on its peers.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::allocators::{self, Allocator, How};
use crate::measure::{self, Run, median};
use crate::table;

#[derive(clap::Args)]
pub struct Options {
    /// How often each program runs on each allocator.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Only the programs whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// A command line, run by a shell in a folder of its own.
pub struct Program {
    pub name: &'static str,
    needs: &'static str,
    /// Run once, before anything is measured.
    prepare: String,
    pub command: String,
}

impl Program {
    /// Makes what the program works on; whether there is the program.
    pub fn prepare(&self, folder: &Path) -> Result<bool, Box<dyn Error>> {
        if find(self.needs).is_none() {
            eprintln!("{}: skipped, {} is not installed", self.name, self.needs);
            return Ok(false);
        }
        match shell(folder, &self.prepare).status()?.success() {
            true => Ok(true),
            false => Err(format!("preparing {:?} failed", self.name).into()),
        }
    }
}

pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("sysmem-compare-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = run_in(&folder, options);
    fs::remove_dir_all(&folder)?;
    outcome
}

fn run_in(folder: &Path, options: &Options) -> Result<(), Box<dyn Error>> {
    let allocators = allocators::all()?;
    let programs = all();
    let wanted = |program: &&Program| measure::is_wanted(&options.only, program.name);
    let mut rows = Vec::new();
    for program in programs.iter().filter(wanted) {
        if !program.prepare(folder)? {
            continue;
        }
        eprintln!("{} ...", program.name);
        // One round to warm caches, then all in turn, so that a machine that slows down slows
        // all of them.
        let mut runs: BTreeMap<usize, Vec<Run>> = BTreeMap::new();
        for round in 0..=options.runs {
            for (index, allocator) in allocators.iter().enumerate() {
                let run = run_on(allocator, folder, &program.command)?;
                if round > 0 {
                    runs.entry(index).or_default().push(run);
                }
            }
        }
        let plain = runs[&0].clone();
        for (index, allocator) in allocators.iter().enumerate() {
            let runs = &runs[&index];
            let pairs: Vec<(Run, Run)> = runs.iter().copied().zip(plain.iter().copied()).collect();
            let ratio = |of: fn(&Run) -> f64| median(&pairs, |(run, plain)| of(run) / of(plain));
            let wall = |run: &Run| run.wall.as_secs_f64();
            let cpu = |run: &Run| run.cpu.as_secs_f64();
            let peak = |run: &Run| run.peak as f64;
            rows.push(vec![
                if index == 0 { program.name.to_string() } else { String::new() },
                allocator.name.clone(),
                format!("{:.3} s", median(runs, wall)),
                format!("{:.2}", ratio(wall)),
                format!("{:.3} s", median(runs, cpu)),
                format!("{:.2}", ratio(cpu)),
                format!("{:.1} MiB", median(runs, peak) / (1 << 20) as f64),
                format!("{:.2}", ratio(peak)),
            ]);
        }
    }
    println!(
        "Medians of {} runs in turn; ratios to plain are medians of neighbouring pairs.\n",
        options.runs
    );
    let head = ["program", "allocator", "wall", "ratio", "CPU", "ratio", "peak", "ratio"];
    table::print(&head, &rows);
    Ok(())
}

/// Runs one command line; a shell would be the program that is measured, so what it would run is
/// given as words.
fn run_on(allocator: &Allocator, folder: &Path, line: &str) -> Result<Run, Box<dyn Error>> {
    let figures = folder.join("figures.json");
    let mut words = line.split_whitespace();
    let program = words.next().ok_or("an empty command line")?;
    let mut command = allocator.command(program, [OsStr::new("--json"), figures.as_os_str()]);
    command.args(words).current_dir(folder).stderr(Stdio::null());
    let mut run = measure::run(&mut command)?;
    if let How::SysmemRun(_) = allocator.how {
        run.peak = peak_in(&fs::read(&figures)?).ok_or("no peak in the figures of sysmem")?;
    }
    Ok(run)
}

/// The largest resident set of any process in a report of `sysmem run --json` (docs/json.md).
fn peak_in(json: &[u8]) -> Option<u64> {
    let report: serde_json::Value = serde_json::from_slice(json).ok()?;
    let descendants = report["descendants"].as_array()?;
    let processes = descendants.iter().chain([&report["program"]]);
    processes.filter_map(|process| process["peak_resident"]["bytes"].as_u64()).max()
}

/// Every program.
pub fn all() -> Vec<Program> {
    let write = |file: &str, text: &str| format!("cat > {file} <<'END'\n{text}\nEND\n");
    vec![
        Program {
            name: "sort, 1M lines",
            needs: "sort",
            prepare: "awk 'BEGIN { for (i = s = 1; i <= 1000000; i++) { \
                      s = (s * 1103515245 + 12345) % 2147483648; print s } }' > lines"
                .into(),
            command: "sort --parallel=2 -S 256M lines -o sorted".into(),
        },
        Program {
            name: "python3, objects",
            needs: "python3",
            prepare: write("objects.py", PYTHON_OBJECTS),
            command: "python3 objects.py".into(),
        },
        Program {
            name: "git, log and repack",
            needs: "git",
            prepare: "rm -rf repository && git init -q repository && cd repository && \
                      for i in $(seq 200); do seq $i $((i * 40)) > file$((i % 20)); \
                      git add -A; git -c user.name=n -c user.email=e commit -qm $i; done"
                .into(),
            command: "git -C repository repack -adfq --depth=50 --window=50".into(),
        },
        Program {
            name: "node, objects and JSON",
            needs: "node",
            prepare: write("objects.js", NODE_OBJECTS),
            command: "node objects.js".into(),
        },
        Program {
            name: "sqlite3, 300k rows",
            needs: "sqlite3",
            prepare: write("rows.sql", SQLITE_ROWS),
            command: "sqlite3 -init rows.sql :memory: .quit".into(),
        },
        Program {
            name: "cc1, a large C file",
            needs: "cc",
            prepare: write("generate.sh", C_SOURCE) + "sh generate.sh > large.c",
            command: "cc -O2 -c large.c -o large.o".into(),
        },
    ]
}

const PYTHON_OBJECTS: &str = "\
import random
random.seed(1)
words = {}
for index in range(600000):
    words['key%d' % random.randrange(300000)] = [index, str(index), {'n': index}]
text = ','.join(sorted(words)) * 3
parts = [part * 2 for part in text.split(',')]
print(len(words), len(parts), sum(map(len, parts)))";

const NODE_OBJECTS: &str = "\
let all = [];
for (let i = 0; i < 200000; i++) all.push({ id: i, name: 'name' + i, list: [i, i + 1, i + 2] });
let text = JSON.stringify(all);
let back = JSON.parse(text);
let buffers = [];
for (let i = 0; i < 20000; i++) buffers.push(Buffer.alloc(4096 + i % 1000, i & 255));
console.log(back.length, text.length, buffers.length);";

const SQLITE_ROWS: &str = "\
create table t(id integer primary key, name text, value real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000)
insert into t select i, 'name ' || (i * 7919 % 300000), i * 0.5 from n;
create index by_name on t(name);
select count(*), sum(value) from t where name > 'name 2';
select name, value from t order by name desc limit 5;";

const C_SOURCE: &str = "\
for i in $(seq 1500); do
  echo \"struct s$i { int a[$i % 7 + 1]; struct s$i *next; };\"
  echo \"int f$i(struct s$i *p, int n) { int sum = 0; for (int i = 0; i < n; i++) { sum += p->a[i % ($i % 7 + 1)] * i; if (sum & 1) p = p->next; } return sum; }\"
done";

fn shell(folder: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Where a program lies on the PATH.
fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
