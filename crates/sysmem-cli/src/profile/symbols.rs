//! The names of functions, from debug information where a file has it, else from its symbols.

use super::Frame;
use super::modules::Files;
use addr2line::{Loader, demangle_auto};
use object::{Object, ObjectSymbol, ReadCache, SymbolKind};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// What functions a frame is in: the innermost first, where some were inlined into others.
pub type Named = HashMap<Frame, Vec<Function>>;

/// A function, and the line in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Function {
    pub name: String,
    /// As the linker knows it.
    pub symbol: String,
    pub file: String,
    pub line: u32,
}

/// Names every frame; says on a terminal how far it is, since large programs take seconds.
pub fn name<'a>(files: &Files, frames: impl Iterator<Item = &'a Frame>) -> Named {
    let mut by_file: HashMap<usize, Vec<Frame>> = HashMap::new();
    for &frame in frames {
        by_file.entry(frame.file).or_default().push(frame);
    }
    let mut progress = Progress::new(by_file.len());
    let mut named = Named::new();
    for (number, mut frames) in by_file {
        frames.sort_by_key(|frame| frame.address);
        frames.dedup();
        let path = &files.all[number].path;
        progress.step(path);
        let debug = Loader::new(path).ok();
        let mut unnamed: Vec<Frame> = Vec::new();
        for frame in frames {
            let functions =
                debug.as_ref().and_then(|debug| of_debug_information(debug, frame.address));
            match functions.filter(|functions| !functions.is_empty()) {
                Some(functions) => drop(named.insert(frame, functions)),
                None => unnamed.push(frame),
            }
        }
        let addresses: Vec<u64> = unnamed.iter().map(|frame| frame.address).collect();
        let symbols = of_symbols(path, &addresses).unwrap_or_default();
        for (place, frame) in unnamed.into_iter().enumerate() {
            let symbol = symbols.get(place).cloned().flatten();
            let known = symbol.map(|symbol| function(&symbol, None));
            named.insert(frame, vec![known.unwrap_or_else(|| unknown(path, frame.address))]);
        }
    }
    progress.end();
    named
}

/// A place without a name.
fn unknown(path: &Path, address: u64) -> Function {
    let place = match path.file_name() {
        Some(name) => format!("{}+{address:#x}", name.to_string_lossy()),
        None => "[code in no file]".to_owned(),
    };
    Function { symbol: place.clone(), name: place, ..Function::default() }
}

/// The symbols of the functions at these addresses, which are sorted. A file may have a hundred
/// thousand symbols: only those that are wanted are kept.
fn of_symbols(path: &Path, addresses: &[u64]) -> Option<Vec<Option<String>>> {
    if addresses.is_empty() {
        return None;
    }
    let data = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&data).ok()?;
    let mut nearest: Vec<Option<(u64, String)>> = vec![None; addresses.len()];
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        let (start, size) = (symbol.address(), symbol.size());
        // A symbol without a size goes on to the next, but not over the rest of the file.
        let end = start.saturating_add(if size == 0 { 4096 } else { size });
        let first = addresses.partition_point(|&address| address < start);
        let last = addresses.partition_point(|&address| address < end);
        if first >= last || symbol.kind() != SymbolKind::Text || !symbol.is_definition() {
            continue;
        }
        let Ok(name) = symbol.name() else { continue };
        for known in &mut nearest[first..last] {
            // Several may have one address: the last by name, so that it is always the same.
            if known.as_ref().is_none_or(|known| (known.0, &known.1[..]) < (start, name)) {
                *known = Some((start, name.to_owned()));
            }
        }
    }
    Some(nearest.into_iter().map(|known| known.map(|(_, name)| name)).collect())
}

fn of_debug_information(debug: &Loader, address: u64) -> Option<Vec<Function>> {
    let mut frames = debug.find_frames(address).ok()?;
    let mut functions = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        let Some(name) = &frame.function else { continue };
        let symbol = name.raw_name().unwrap_or(Cow::Borrowed("")).into_owned();
        let mut named = function(&symbol, name.language);
        if let Some(location) = frame.location {
            named.file = location.file.unwrap_or_default().to_owned();
            named.line = location.line.unwrap_or(0);
        }
        functions.push(named);
    }
    Some(functions)
}

fn function(symbol: &str, language: Option<addr2line::gimli::DwLang>) -> Function {
    let mut name = demangle_auto(Cow::Borrowed(symbol), language).into_owned();
    if name == symbol && symbol.starts_with("_Z") {
        name = addr2line::demangle(symbol, addr2line::gimli::DW_LANG_C_plus_plus).unwrap_or(name);
    }
    Function { name, symbol: symbol.to_owned(), ..Function::default() }
}

/// A line on a terminal that says what is read.
struct Progress {
    shown: bool,
    done: usize,
    all: usize,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { shown: std::io::stderr().is_terminal(), done: 0, all }
    }

    fn step(&mut self, path: &Path) {
        self.done += 1;
        if self.shown {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = crate::words::printable(&name);
            let (done, all) = (self.done, self.all);
            let _ =
                write!(std::io::stderr(), "\r\x1b[Ksysmem: reading symbols {done}/{all}, {name}");
        }
    }

    fn end(self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
