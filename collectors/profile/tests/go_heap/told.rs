//! What a Go program tells of its heap over HTTP.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
};

use model::{
    profile::{ProfileKind, Stacks},
    time::Stamp,
};
use profile::{
    goheap::{Reading, Totals},
    gopprof,
};

/// Lines of a profile: how often which counts stand beside which stack.
pub(crate) type Lines = BTreeMap<(Vec<u64>, [u64; 4]), u32>;

/// The answer to `?debug=1`.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) totals: [u64; 4],
    pub(crate) lines: Lines,
    pub(crate) rate: u64,
    pub(crate) collections: u64,
}

/// The body of an answer.
pub(crate) fn request(port: u16, head: &str, body: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    write!(stream, "{head} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer[..end]));
    answer.split_off(end + 4)
}

/// `1: 2 [3: 4]`, in the order of [`Totals`].
fn counts(text: &str) -> [u64; 4] {
    let mut numbers = text.split([':', ' ', '[', ']']).filter_map(|word| word.parse().ok());
    std::array::from_fn(|_| numbers.next().expect("four numbers"))
}

pub(crate) fn ask(port: u16, path: &str) -> Told {
    let text = String::from_utf8(request(port, &format!("GET {path}?debug=1"), "")).unwrap();
    let head = text.lines().next().unwrap().strip_prefix("heap profile: ").expect("a heap profile");
    let (totals, rate) = head.split_once('@').unwrap();
    let number = |text: &str| text.rsplit(['/', ' ']).next().unwrap().parse::<u64>().unwrap();
    let mut lines = Lines::new();
    for line in text.lines().skip(1).filter(|line| !line.starts_with('#')) {
        let Some((count, stack)) = line.split_once('@') else { continue };
        let words = stack.split_whitespace().map(|word| u64::from_str_radix(&word[2..], 16).unwrap());
        let count = counts(count);
        if count != [0; 4] {
            *lines.entry((words.collect(), count)).or_default() += 1;
        }
    }
    let collections = number(text.lines().find(|line| line.starts_with("# NumGC = ")).unwrap());
    Told { totals: counts(totals), lines, rate: number(rate) / 2, collections }
}

fn four(totals: Totals) -> [u64; 4] {
    [totals.inuse_objects, totals.inuse_bytes, totals.alloc_objects, totals.alloc_bytes]
}

/// The same, of a reading.
pub(crate) fn read(reading: &Reading) -> ([u64; 4], Lines) {
    let mut lines = Lines::new();
    for site in reading.sites() {
        let count = four(site.counts);
        if count != [0; 4] {
            *lines.entry((site.stack.to_vec(), count)).or_default() += 1;
        }
    }
    let mut totals = four(reading.totals());
    // So that nobody takes it for a profile with two columns.
    totals[3] += u64::from(totals[1] == totals[3]);
    (totals, lines)
}

/// What Go's own profile shows of what is in use: scaled, named.
pub(crate) fn profile(port: u16, path: &str) -> Stacks {
    let body = request(port, &format!("GET {path}"), "");
    gopprof::decode(&body, ProfileKind::Heap, Stamp::default()).unwrap().0
}

/// Stacks as text, innermost first, with their values; in any order.
pub(crate) fn named(stacks: &Stacks) -> Vec<(String, i64, i64)> {
    let mut all = Vec::new();
    for sample in &stacks.samples {
        let line = |frame: &u32| {
            let frame = stacks.frames[usize::try_from(*frame).unwrap()];
            let function = &stacks.functions[usize::try_from(frame.function).unwrap()];
            let inlined = if frame.inlined { "inlined " } else { "" };
            // What the compiler makes of a package's variables is from several files, of which Go's profiles show the first
            // that they met: a function has one name and one file there.
            let file = if function.name.ends_with(".init") { "" } else { &function.file };
            format!(
                "{inlined}{} {file}:{} from {} at {:x}\n",
                function.name, frame.line, function.start_line, frame.address
            )
        };
        all.push((sample.frames.iter().map(line).collect(), sample.value, sample.count));
    }
    all.sort();
    all
}
