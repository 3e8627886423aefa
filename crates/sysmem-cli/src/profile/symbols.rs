//! The names of functions, from debug information where a file has it, else from its symbols.

use super::Frame;
use super::modules::Files;
use addr2line::{Loader, demangle_auto};
use object::{Object, ObjectSymbol};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
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
        let symbols = Symbols::of(path);
        for frame in frames {
            let functions = symbols.functions(frame.address).unwrap_or_else(|| {
                let place = match path.file_name() {
                    Some(name) => format!("{}+{:#x}", name.to_string_lossy(), frame.address),
                    None => "[code in no file]".to_owned(),
                };
                vec![Function { symbol: place.clone(), name: place, ..Function::default() }]
            });
            named.insert(frame, functions);
        }
    }
    progress.end();
    named
}

/// The names in one file.
struct Symbols<'a> {
    path: &'a Path,
    debug: Option<Loader>,
    /// Symbols of functions by address, with their ends; read when debug information says nothing.
    table: OnceCell<Vec<(u64, u64, String)>>,
}

impl<'a> Symbols<'a> {
    fn of(path: &'a Path) -> Self {
        Self { path, debug: Loader::new(path).ok(), table: OnceCell::new() }
    }

    fn read_table(path: &Path) -> Vec<(u64, u64, String)> {
        let mut table = Vec::new();
        if let Ok(data) = std::fs::read(path) {
            if let Ok(file) = object::File::parse(&data[..]) {
                for symbol in file.symbols().chain(file.dynamic_symbols()) {
                    let is_code =
                        symbol.kind() == object::SymbolKind::Text && symbol.is_definition();
                    if let (true, Ok(name)) = (is_code, symbol.name()) {
                        let start = symbol.address();
                        table.push((start, start + symbol.size(), name.to_owned()));
                    }
                }
            }
        }
        table.sort();
        table
    }

    fn functions(&self, address: u64) -> Option<Vec<Function>> {
        let inlined = self.debug.as_ref().and_then(|debug| of_debug_information(debug, address));
        let functions = inlined.filter(|functions| !functions.is_empty());
        functions.or_else(|| Some(vec![self.of_table(address)?]))
    }

    fn of_table(&self, address: u64) -> Option<Function> {
        let table = self.table.get_or_init(|| Self::read_table(self.path));
        let above = table.partition_point(|&(start, ..)| start <= address);
        // Several symbols may have one address, and symbols without a size end nowhere.
        let mut below = table[..above].iter().rev().take(8);
        let (.., symbol) = below.find(|&&(start, end, _)| address < end || start == end)?;
        Some(function(symbol, None))
    }
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
            let name = crate::text::printable(&name);
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
