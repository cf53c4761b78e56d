//! Every parser that eats what others wrote, fed with what nobody should have written: torn, huge, deep, endless, in another
//! encoding. Each returns in time, keeps its bounds, counts what it refuses, and never panics. The same input on each run;
//! what a fuzzer finds is in tests/fuzz.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "every function here is part of a test")]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use collectors::{
    discover::{self, Environment},
    host, logs,
    scrape::{columns::Columns, exposition},
};
use exporters::{
    files, otlp,
    rollback::{self, Rollback, signature},
};
use harness::{agent::Agent, process::wait_until};
use model::{
    ledger::Ledger,
    profile::{ProfileKind, ProfileSet},
    time::{Clock, Stamp},
};

/// The longest inputs; more than any parser is ever handed at once.
const HUGE_BYTES: usize = 1 << 20;

/// Deeper than any stack would bear, were a frame spent on each level.
const LEVELS: usize = 200_000;

/// For one input in a debug build on a busy machine. What takes longer is not slow but worse than linear.
const SOON: Duration = Duration::from_secs(10);

/// What no parser should have to read, made from what it should. Each with words for the report.
fn hostile(sample: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut inputs: Vec<(String, Vec<u8>)> = vec![("nothing".to_owned(), Vec::new())];
    inputs.extend((1..sample.len()).map(|cut| (format!("torn at {cut}"), sample[..cut].to_vec())));
    inputs.extend((1..sample.len()).map(|cut| (format!("begins at {cut}"), sample[cut..].to_vec())));
    for byte in b"\0\n\r\t \"'#*-.0(:[\\{|,ae\x7f\x80\xc3\xff" {
        inputs.push((format!("a megabyte of {byte:#04x}"), vec![*byte; HUGE_BYTES]));
    }
    for (open, close) in
        [("[", "]"), ("{\"a\":", "}"), ("{a: ", "}"), ("- ", ""), ("a{b=\"", "\"}"), ("(", ")")]
    {
        inputs.push((format!("deep {open}"), open.repeat(LEVELS).into_bytes()));
        inputs.push((
            format!("deep {open} and back"),
            [open.repeat(LEVELS), close.repeat(LEVELS)].concat().into(),
        ));
    }
    let text = String::from_utf8_lossy(sample);
    let wide: Vec<u16> = text.encode_utf16().collect();
    inputs.push(("UTF-16, little end".to_owned(), wide.iter().flat_map(|unit| unit.to_le_bytes()).collect()));
    inputs.push(("UTF-16, big end".to_owned(), wide.iter().flat_map(|unit| unit.to_be_bytes()).collect()));
    inputs.push(("a byte order mark".to_owned(), [b"\xef\xbb\xbf", sample].concat()));
    inputs.push(("latin-1".to_owned(), text.replace('e', "\u{e9}").chars().map(|c| c as u8).collect()));
    inputs.push(("NUL between".to_owned(), sample.iter().flat_map(|byte| [*byte, 0]).collect()));
    for number in
        ["9".repeat(400), format!("-{}", "9".repeat(400)), "1e999999999".to_owned(), "-0".to_owned()]
    {
        inputs.push((format!("numbers of {} digits", number.len()), with_numbers(sample, number.as_bytes())));
    }
    inputs.push(("endless".to_owned(), sample.repeat(HUGE_BYTES / sample.len().max(1))));
    let lines = [sample, b"\n"].concat();
    inputs.push(("endless lines".to_owned(), lines.repeat(HUGE_BYTES / lines.len())));
    inputs
}

/// The sample with each of its numbers replaced.
fn with_numbers(sample: &[u8], number: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    for chunk in sample.chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit()) {
        replaced.extend_from_slice(if chunk[0].is_ascii_digit() { number } else { chunk });
    }
    replaced
}

/// Feeds all of it to one parser, which asserts its own bounds.
#[expect(clippy::disallowed_methods, reason = "how long a parser really takes is what is asked")]
fn survives(sample: &[u8], parse: impl Fn(&[u8])) {
    for (what, input) in hostile(sample) {
        let began = Instant::now();
        parse(&input);
        let took = began.elapsed();
        assert!(took < SOON, "{what}: {took:?} for {} bytes", input.len());
    }
}

/// A folder of its own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("backburn-hostile-{name}-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

const PAGE: &[u8] = b"# HELP a_seconds What it \\\\ is.\n# TYPE a_seconds histogram\na_seconds_bucket{le=\"0.5\"} 1\n\
a_seconds_bucket{le=\"+Inf\"} 2\na_seconds_sum 0.75\na_seconds_count 2\nup{x=\"y \\\"z\\\"\"} NaN 1700000000000\n";

#[test]
fn a_page_of_lines_loses_only_its_bad_lines() {
    survives(PAGE, |page| {
        let (mut lines, mut refused) = (0, 0);
        for (raw, line) in exposition::parse(page) {
            lines += 1;
            refused += usize::from(line.is_err());
            assert!(line.is_err() || raw.len() <= exposition::LINE_BYTES_MAX);
        }
        assert!(lines <= page.iter().filter(|byte| **byte == b'\n').count() + 1);
        assert!(refused <= lines);
    });
}

#[test]
fn a_hostile_page_between_two_good_ones_leaves_columns_whole() {
    const SERIES_MAX: usize = 1_000;
    survives(PAGE, |page| {
        let mut columns = Columns::new(SERIES_MAX);
        let before = columns.read(PAGE, 1).unwrap();
        match columns.read(page, 1) {
            Ok(reading) => {
                assert!(reading.layout.points.len() <= SERIES_MAX + 16);
                assert_eq!(reading.values.len(), usize::try_from(reading.layout.series).unwrap());
                assert!(reading.kept <= reading.samples);
            }
            Err(rejects) => assert!(rejects.total() > 0 && rejects.sample.is_some()),
        }
        // What the page left behind may take one more to go.
        drop(columns.read(PAGE, 1));
        let after = columns.read(PAGE, 1).unwrap();
        let page = String::from_utf8_lossy(&page[..page.len().min(200)]);
        assert_eq!((after.samples, after.kept), (before.samples, before.kept), "after {page}");
    });
}

#[test]
fn a_log_line_is_an_event_or_a_counted_reject() {
    let samples: [&[u8]; 5] = [
        br#"{"level":"warn","ts":"2026-11-21T04:00:00.1Z","caller":"txn/util.go:93","msg":"apply request took too long","took":"153.2ms","expected-duration":"100ms","prefix":"read-only range ","request":"key:\"app/\" ","response":"range_response_count:3 size:30"}"#,
        br#"{"level":"info","ts":"2026-11-21T04:00:00Z","msg":"trace[77] range","detail":"{range_begin:a; }","duration":"112ms","start":"2026-11-21T04:00:00Z","end":"2026-11-21T04:00:00.1Z","steps":["trace[77] 'range keys' (duration: 10ms)"],"step_count":1}"#,
        br#"2026-11-21 04:00:00.123456 W | etcdserver: read-only range request "key:\"a\" " with result "range_response_count:0 size:5" took too long (101.2ms) to execute"#,
        br#"2026-11-21T04:00:00.1Z stderr F {"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","msg":"x","duration_ms":130}"#,
        br#"{"log":"{\"level\":\"warn\",\"msg\":\"x\"}\n","stream":"stderr","time":"2026-11-21T04:00:00Z"}"#,
    ];
    let reasons: HashSet<&str> = ["bad_json", "not_text", "unknown_format", "line_too_long"].into();
    for (sample, member) in samples.into_iter().zip([true, true, true, false, false]) {
        let context = logs::Context { service: "app", member, now_ns: 7, zone_ns: i64::MIN, ship_all: false };
        survives(sample, |line| match logs::parse(line, &context) {
            logs::Line::Event(event) => {
                assert!(event.message.len() <= 8 * 1024 && event.attributes.len() <= 32);
                assert!(event.attributes.iter().all(|(name, value)| name.len().max(value.len()) <= 8 * 1024));
            }
            logs::Line::Quiet => {}
            logs::Line::Reject(reject) => assert!(reasons.contains(reject.reason())),
        });
    }
}

/// Key bytes: whatever surrounds them in a slow line, they do not come through.
#[test]
fn a_torn_slow_line_never_shows_the_key() {
    let line = br#"{"level":"warn","ts":"2026-11-21T04:00:00Z","msg":"apply request took too long","took":"1s","expected-duration":"100ms","prefix":"read-only range ","request":"key:\"/registry/secrets/hunter2\" range_end:\"/registry/secrets/hunter3\" ","response":"range_response_count:3 size:30"}"#;
    let context = logs::Context { service: "m1", member: true, now_ns: 7, zone_ns: 0, ship_all: true };
    let variants = (1..line.len()).map(|cut| format!("{}\"}}", String::from_utf8_lossy(&line[..cut])));
    for variant in variants {
        if let logs::Line::Event(event) = logs::parse(variant.as_bytes(), &context) {
            assert!(!format!("{event:?}").contains("hunter"), "{variant}: {event:?}");
        }
    }
}

fn pprof_sample() -> Vec<u8> {
    use model::profile::{Frame, Function, Losses, Mapping, Owner, StackSample, Stacks};
    let stacks = Stacks {
        kind: ProfileKind::Cpu,
        at: Stamp::default(),
        duration_ns: 10_000_000_000,
        period: 10_000_000,
        mappings: vec![Mapping {
            path: "/bin/etcd".into(),
            build_id: "ab".into(),
            start: 1,
            end: 9,
            ..Mapping::default()
        }],
        functions: vec![Function { name: "main.work".into(), file: "main.go".into(), start_line: 3 }],
        frames: vec![Frame { function: 0, mapping: 0, address: 4, line: 7, ..Frame::default() }],
        owners: vec![Owner { pid: 7, process: "etcd".into(), cpu: Some(0), ..Owner::default() }],
        samples: vec![StackSample { frames: vec![0, 0], value: 30, count: 3, owner: 0 }],
        losses: Losses { lost: 1, truncated: 2 },
        pprof: Vec::new(),
    };
    files::pprof::encode(&stacks)
}

/// Decodes, counts and renders, as a capture does.
fn capture(body: &[u8]) -> Option<profile::gopprof::Rejects> {
    // A file by a person's hand: wider bounds, every kind that is in it.
    for (stacks, _) in profile::gopprof::decode_file(body).unwrap_or_default() {
        assert!(!files::folded::encode(&stacks).is_empty() || stacks.samples.is_empty());
    }
    let decoded = profile::gopprof::decode(body, ProfileKind::Cpu, Stamp::default());
    let (stacks, rejects) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            assert!(!error.reason().is_empty());
            return None;
        }
    };
    assert!(stacks.frames.len() <= profile::gopprof::FRAMES_MAX);
    let counts = profile::counts::of(&stacks);
    assert!(counts.functions.len() <= model::profile::FUNCTIONS_MAX);
    let set = ProfileSet::new("go-pprof", Stamp::default(), vec![counts], vec![stacks]);
    assert!(!files::render(None, &set, "title").unwrap().is_empty());
    Some(rejects)
}

#[test]
fn a_profile_is_read_or_refused_with_a_reason() {
    let gzipped = pprof_sample();
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(gzipped.as_slice()), &mut plain).unwrap();
    assert_eq!(capture(&gzipped), Some(profile::gopprof::Rejects::default()));
    for sample in [gzipped, plain] {
        survives(&sample, |body| {
            let _rejects = capture(body);
        });
    }
}

#[test]
fn a_text_of_goroutines_is_read_as_far_as_it_goes() {
    use profile::goroutines::text::{FRAMES_MAX, GOROUTINES_MAX, parse};
    let sample = b"goroutine 7 [chan receive, 3 minutes]:\nmain.take(0x1)\n\t/a.go:2 +0x1\n\n";
    survives(sample, |text| {
        let (groups, _) = parse(text);
        assert!(groups.iter().map(|group| group.goroutines.len()).sum::<usize>() <= GOROUTINES_MAX);
        assert!(groups.iter().all(|group| (1..=FRAMES_MAX).contains(&group.stack.len())));
    });
}

#[test]
fn a_profile_that_inflates_without_end_is_refused() {
    use std::io::Write;
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        bomb.write_all(&vec![0; HUGE_BYTES]).unwrap();
    }
    assert_eq!(capture(&bomb.finish().unwrap()), None);
}

#[test]
fn texts_of_the_kernel_are_read_as_far_as_they_go() {
    let samples: [&[u8]; 6] = [
        b"cpu  120 30 50 9000 70 1 4 25 60 0\ncpu0 60 15 25 4500 35 0 2 12 30 0\n",
        b"MemTotal:  2048 kB\nMemAvailable:  1024 kB\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=123\n",
        b"   8  0 sda 10 0 80 5 20 0 160 9 0 14 14 0 0 0 0 3 2\n",
        b"17 (et cd) S 1 17 17 0 -1 0 1 2 3 4 500 600 0 0 20 0 9 0 12345 1000000 777 1\n",
        b"sl local rem st\n 0: 0100007F:094B 00000000:0000 01 0:0 00:0 0 0 0 12345 1\n",
    ];
    let sockets: HashSet<u64> = [12_345].into();
    for sample in samples {
        survives(sample, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            drop((host::parse::stat(&text, 100), host::parse::pid_stat(&text)));
            let _few =
                (host::parse::meminfo(&text), host::parse::pressure(&text), host::parse::socket_inode(&text));
            assert!(host::parse::diskstats(&text, |_| true).len() <= host::parse::DISKS_MAX);
            assert!(
                host::parse::established(&text, &sockets) <= u64::try_from(text.lines().count()).unwrap()
            );
        });
    }
}

#[test]
fn a_process_that_lies_about_itself_is_at_most_one_member() {
    let folder = Folder::new("node");
    let process = folder.0.join("proc/17");
    fs::create_dir_all(&process).unwrap();
    let environment = Environment { root: folder.0.clone(), vars: BTreeMap::new(), node: "n".into() };
    let command = b"/usr/bin/etcd\0--name\0m1\0--listen-client-urls=https://[::1]:2379,http://10.0.0.1:1\0";
    survives(command, |bytes| {
        fs::write(process.join("cmdline"), bytes).unwrap();
        fs::write(process.join("environ"), bytes).unwrap();
        assert!(discover::find(&environment).targets.len() <= 1);
    });
    fs::write(process.join("cmdline"), b"etcd\0--config-file=/etcd.conf\0").unwrap();
    let file =
        b"name: m3\nlisten-client-urls: https://127.0.0.1:2379\nclient-transport-security:\n  key-file: /k\n";
    survives(file, |bytes| {
        fs::write(folder.0.join("etcd.conf"), bytes).unwrap();
        assert_eq!(discover::find(&environment).targets.len(), 1);
    });
}

#[test]
fn variables_and_signatures_are_refused_in_words() {
    let names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES"];
    let secret = signature::Secret::parse("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE").unwrap();
    survives(b"http://127.0.0.1:4317/?a=b,c=%20d", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let env = names.map(|name| (name.to_owned(), text.clone().into_owned())).into();
        let (config, problems) = otlp::Config::from_env(&env, otlp::Config::default());
        assert!(problems.iter().all(|problem| !problem.message.is_empty()));
        for signal in otlp::Signal::ALL {
            drop(config.destination(signal).url(signal));
        }
        let headers = signature::Headers { id: &text, timestamp: "1700000000", signature: &text };
        assert!(signature::verify(&secret, headers, bytes, 1_700_000_000).is_err());
        drop(signature::Secret::parse(&text));
    });
}

#[test]
fn a_journal_of_anything_starts_and_counts_what_it_skipped() {
    let folder = Folder::new("journal");
    let journal = folder.0.join("journal.jsonl");
    let sample = b"{\"sum\":\"0123456789abcdef\",\"entry\":{\"closed\":{\"signal\":\"sig_1\"}}}";
    survives(sample, |bytes| {
        fs::write(&journal, bytes).unwrap();
        let ledger = Ledger::default();
        let config = rollback::Config { journal_dir: folder.0.clone(), receivers: Vec::new() };
        // A neighbour's child may hold the lock between its fork and its exec.
        let open = || Rollback::new(config.clone(), Clock::new(Stamp::default), ledger.clone());
        wait_until("the journal to open", SOON, || Ok(open().ok())).unwrap();
        // The last line has no end: it is a torn write, cut off, not rotten.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        let rotten = ledger.get("agent_rollback_journal_errors_total", "rotten_line");
        assert_eq!(rotten, u64::try_from(lines).unwrap());
        assert_eq!(fs::metadata(&journal).unwrap().len(), u64::try_from(whole).unwrap());
    });
}

/// What `agent ARGS… FILE` answers to each input; it must be one of `codes`.
fn answers(name: &str, sample: &[u8], arguments: &[&str], codes: &[i32]) {
    let folder = Folder::new(name);
    let file = folder.0.join("input");
    survives(sample, |bytes| {
        fs::write(&file, bytes).unwrap();
        let arguments = [arguments, &[file.to_str().unwrap()]].concat();
        let finished = Agent::run(&folder.0, &arguments, &[], SOON).unwrap();
        let code = finished.status.code();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{code:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert!(finished.stderr.len() <= 4 * HUGE_BYTES, "{} bytes of problems", finished.stderr.len());
        assert!(code == Some(0) || !finished.stderr.is_empty(), "refused without a word");
    });
}

#[test]
fn a_configuration_is_taken_or_refused_with_its_problems() {
    let sample = b"node: n1 # x\nslo: &a\n  write: { limit: 32ms }\nx: *a\nlogs: { files: [\"/a\"] }\n";
    answers("config", sample, &["validate", "--config"], &[0, 78]);
}

#[test]
fn a_damaged_recording_is_data_that_cannot_be_used() {
    let sample = b"BACKBURN\x01\x00\x12\x00\x00\x00\x28\xb5\x2f\xfd\x04\x58\x51\x00\x00\x06\x00\x00\x00\x00";
    answers("recording", sample, &["replay"], &[65]);
}
