//! The profile in the format of pprof (profile.proto of github.com/google/pprof), compressed.

use super::symbols::Function;
use super::{Frame, Profile, Sum};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// What each value of a sample is.
const TYPES: [(&str, &str); 6] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("peak_objects", "count"),
    ("peak_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// What a reader shows first: a program that has ended holds nothing any more.
const SHOWN_FIRST: &str = "peak_space";

#[derive(Clone, PartialEq, Message)]
struct Proto {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<ProtoSample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<ProtoFunction>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoSample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
    #[prost(int64, tag = "3")]
    number: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoFunction {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// The bytes of the file.
pub fn render(profile: &Profile) -> io::Result<Vec<u8>> {
    let mut writer = Writer::default();
    writer.text("");
    let types: Vec<ValueType> =
        TYPES.iter().map(|(kind, unit)| writer.value_type(kind, unit)).collect();
    for entry in &profile.entries {
        let location_id =
            entry.frames.iter().map(|frame| writer.location(profile, *frame)).collect();
        let held = &entry.held;
        let value = [held.allocated, held.at_peak, held.in_use].iter().flat_map(values).collect();
        let label = vec![
            Label { key: writer.text("process"), text: writer.text(&entry.process), number: 0 },
            Label { key: writer.text("pid"), text: 0, number: entry.pid.into() },
        ];
        writer.proto.sample.push(ProtoSample { location_id, value, label });
    }
    let period_type = Some(writer.value_type("space", "bytes"));
    let default_sample_type = writer.text(SHOWN_FIRST);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let began = now.saturating_sub(profile.wall);
    let proto = Proto {
        sample_type: types,
        time_nanos: began.as_nanos() as i64,
        duration_nanos: profile.wall.as_nanos() as i64,
        period_type,
        period: profile.interval as i64,
        default_sample_type,
        string_table: writer.texts,
        ..writer.proto
    };
    let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
    compressed.write_all(&proto.encode_to_vec())?;
    compressed.finish()
}

fn values(sum: &Sum) -> [i64; 2] {
    // What was taken away again may leave a little less than nothing.
    [sum.objects.max(0.0).round() as i64, sum.bytes.max(0.0).round() as i64]
}

/// What was written so far, and the numbers it has.
#[derive(Default)]
struct Writer {
    proto: Proto,
    texts: Vec<String>,
    text_numbers: HashMap<String, i64>,
    locations: HashMap<Frame, u64>,
    functions: HashMap<(String, String), u64>,
    mappings: HashMap<usize, u64>,
}

impl Writer {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(&number) = self.text_numbers.get(text) {
            return number;
        }
        let number = self.texts.len() as i64;
        self.texts.push(text.to_owned());
        self.text_numbers.insert(text.to_owned(), number);
        number
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.text(kind), unit: self.text(unit) }
    }

    fn location(&mut self, profile: &Profile, frame: Frame) -> u64 {
        if let Some(&id) = self.locations.get(&frame) {
            return id;
        }
        let functions = profile.named.get(&frame).map_or(&[][..], |functions| &functions[..]);
        let line = functions
            .iter()
            .map(|function| Line {
                function_id: self.function(function),
                line: function.line.into(),
            })
            .collect();
        let mapping_id = self.mapping(profile, frame.file);
        let id = self.proto.location.len() as u64 + 1;
        let base = profile.files.all[frame.file].base;
        let address = frame.address.wrapping_add(base);
        self.proto.location.push(Location { id, mapping_id, address, line });
        self.locations.insert(frame, id);
        id
    }

    fn function(&mut self, function: &Function) -> u64 {
        let key = (function.symbol.clone(), function.file.clone());
        if let Some(&id) = self.functions.get(&key) {
            return id;
        }
        let id = self.proto.function.len() as u64 + 1;
        let name = self.text(&function.name);
        let system_name = self.text(&function.symbol);
        let filename = self.text(&function.file);
        self.proto.function.push(ProtoFunction { id, name, system_name, filename });
        self.functions.insert(key, id);
        id
    }

    fn mapping(&mut self, profile: &Profile, file: usize) -> u64 {
        let code = &profile.files.all[file];
        if code.path.as_os_str().is_empty() {
            return 0;
        }
        if let Some(&id) = self.mappings.get(&file) {
            return id;
        }
        let id = self.proto.mapping.len() as u64 + 1;
        let filename = self.text(&code.path.to_string_lossy());
        self.proto.mapping.push(Mapping {
            id,
            memory_start: code.mapped.start,
            memory_limit: code.mapped.end,
            // So that a reader that looks for itself finds the file's own addresses.
            file_offset: code.mapped.start.wrapping_sub(code.base),
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        });
        self.mappings.insert(file, id);
        id
    }
}
