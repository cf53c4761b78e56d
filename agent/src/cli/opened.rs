//! Profiles that a person names: pprof files of any origin, and the folders of our own captures.
//!
//! Owns how they are found, read within bounds and told of in one line. Refuses to guess: what is not a profile is named
//! with the cure.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use exporters::files;
use jiff::Timestamp;
use model::profile::{FunctionCounts, Losses, ProfileKind, Stacks};
use profile::{counts, gopprof};

use super::profile::hot::short;
use super::{Exit, Failure, tell};

/// Compressed; a busy node's hour takes a tenth of it.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Letters of a name in a table.
const NAME_SHOWN: usize = 160;
/// The order in which kinds are told.
const KINDS: [Kind; 5] = [Kind::Cpu, Kind::OffCpu, Kind::Heap, Kind::Alloc, Kind::Goroutine];

/// A kind of profile, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// On-CPU time.
    Cpu,
    /// Time without a CPU.
    OffCpu,
    /// Live heap.
    Heap,
    /// Allocated bytes.
    Alloc,
    /// Goroutines.
    Goroutine,
}

impl Kind {
    fn model(self) -> ProfileKind {
        match self {
            Kind::Cpu => ProfileKind::Cpu,
            Kind::OffCpu => ProfileKind::OffCpu,
            Kind::Heap => ProfileKind::Heap,
            Kind::Alloc => ProfileKind::Alloc,
            Kind::Goroutine => ProfileKind::Goroutine,
        }
    }
}

/// A table for people, or JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

/// One kind of profile with its counts.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stacks: Stacks,
    pub(super) counts: FunctionCounts,
}

/// Which side of a capture's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// What was captured.
    Capture,
    /// The baseline beside it.
    Before,
}

/// All kinds, or that one alone, of a file or of one side of a capture's folder; at least one.
pub(super) fn open(path: &Path, side: Side, only: Option<Kind>) -> Result<Vec<Opened>, Failure> {
    let mut all = if path.is_dir() { folder(path, side) } else { file(path) }
        .map_err(|error| Failure::new(Exit::Data, error))?;
    all.retain(|stacks| only.is_none_or(|kind| kind.model() == stacks.kind));
    if all.is_empty() {
        let wanted =
            only.map_or("no profile".to_owned(), |kind| format!("no {} profile", files::word(kind.model())));
        let side = if side == Side::Before { " from before" } else { "" };
        return Err(Failure::new(Exit::Data, anyhow!("{}: {wanted}{side} in it", path.display())));
    }
    let opened = |stacks: Stacks| Opened { counts: counts::of(&stacks), stacks };
    Ok(all.into_iter().map(opened).collect())
}

fn folder(path: &Path, side: Side) -> anyhow::Result<Vec<Stacks>> {
    let mut all = Vec::new();
    for kind in KINDS.map(Kind::model) {
        let infix = if side == Side::Before { ".before" } else { "" };
        let name = path.join(format!("{}{infix}.pb.gz", files::word(kind)));
        if name.exists() {
            // Go's heap holds what was allocated too; in a folder each kind has a file of its own.
            all.extend(file(&name)?.into_iter().find(|stacks| stacks.kind == kind));
        }
    }
    Ok(all)
}

fn file(path: &Path) -> anyhow::Result<Vec<Stacks>> {
    let place = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    let open = File::open(path).with_context(place)?;
    open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(place)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(anyhow!("{}: more than {} MiB", place(), FILE_BYTES_MAX >> 20));
    }
    let decoded = match gopprof::decode_file(&bytes) {
        Ok(decoded) => decoded,
        Err(error) => return Err(anyhow!("{}: {error}{}", place(), cure(&bytes))),
    };
    // A file of several kinds rejects the same entries for each of them.
    if let Some((_, rejects)) = decoded.first() {
        let rejects = rejects.lines().into_iter().filter(|(_, n)| *n > 0);
        let told: Vec<String> = rejects.map(|(reason, n)| format!("{n} {reason}")).collect();
        if !told.is_empty() {
            tell(&format!("{}: left out {}", path.display(), told.join(", ")));
        }
    }
    Ok(decoded.into_iter().map(|(stacks, _)| stacks).collect())
}

/// What to do about a file that is no profile, where its first bytes tell what it is.
fn cure(bytes: &[u8]) -> &'static str {
    let is_text =
        !bytes.is_empty() && bytes.iter().take(512).all(|byte| byte.is_ascii() && !matches!(*byte, 0..=8));
    match bytes {
        [] => " (the file is empty)",
        [b'P', b'E', b'R', b'F', b'I', b'L', b'E', ..] => {
            " (a perf.data file: perf_to_profile -i FILE -o FILE.pb.gz makes a pprof file of it)"
        }
        [b'{', ..] => " (JSON: a pprof file is asked for)",
        _ if is_text => " (text: a pprof file is asked for)",
        _ => "",
    }
}

/// A name without its import path, and without what moves a terminal's cursor: names come from the profiled process.
pub(super) fn shown(name: &str) -> String {
    short(name).chars().filter(|c| !c.is_control()).take(NAME_SHOWN).collect()
}

/// Colours and bars are for a person at a terminal who did not set `NO_COLOR`.
pub(super) fn is_colourful() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `71.2 %`, `0.31 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.*} %", if share < 0.0995 { 2 } else { 1 }, share * 100.0)
}

/// What the value of a kind is called, in one or two words.
pub(super) fn title(counts: &FunctionCounts) -> &'static str {
    match counts.kind {
        ProfileKind::Cpu => "CPU",
        ProfileKind::OffCpu => "off-CPU",
        ProfileKind::Heap => "heap in use",
        ProfileKind::Alloc => "allocated",
        ProfileKind::Goroutine => "goroutines",
    }
}

/// A value with its unit.
pub(super) fn amount(counts: &FunctionCounts, value: u64) -> String {
    let value_f = value as f64;
    match counts.kind {
        ProfileKind::Cpu if counts.period == 1 => format!("{value} samples"),
        ProfileKind::Cpu | ProfileKind::OffCpu if value < 1_000_000_000 => format!("{:.0} ms", value_f / 1e6),
        ProfileKind::Cpu | ProfileKind::OffCpu => format!("{:.2} s", value_f / 1e9),
        ProfileKind::Goroutine => value.to_string(),
        ProfileKind::Heap | ProfileKind::Alloc => match value {
            0..0x10_0000 => format!("{:.1} KiB", value_f / 1_024.0),
            0x10_0000..0x4000_0000 => format!("{:.1} MiB", value_f / 1_048_576.0),
            _ => format!("{:.2} GiB", value_f / 1_073_741_824.0),
        },
    }
}

/// The whole of a profile: per second where it has a length, `1.25 CPUs over 10.0 s`.
pub(super) fn whole(counts: &FunctionCounts) -> String {
    let seconds = counts.duration_ns as f64 / 1e9;
    let rate = counts.total as f64 / 1e9 / seconds;
    match counts.kind {
        ProfileKind::Cpu if counts.duration_ns > 0 && counts.period != 1 => {
            format!("{rate:.2} CPUs over {seconds:.1} s")
        }
        ProfileKind::OffCpu if counts.duration_ns > 0 => {
            format!("{rate:.2} threads waiting over {seconds:.1} s")
        }
        _ => amount(counts, counts.total),
    }
}

/// How sure: what was seen, and what was not.
pub(super) fn sureness(opened: &Opened) -> String {
    let Losses { lost, truncated } = opened.stacks.losses;
    let mut told = match opened.counts.kind {
        ProfileKind::Goroutine => "all counted".to_owned(),
        ProfileKind::Heap | ProfileKind::Alloc => format!("as sure as {} samples", opened.counts.samples),
        ProfileKind::Cpu | ProfileKind::OffCpu => format!("samples {}", opened.counts.samples),
    };
    for (n, what) in [(lost, "lost"), (truncated, "truncated")] {
        if n > 0 {
            told += &format!(", {what} {n}");
        }
    }
    told
}

/// When it was taken; files of some origins do not say.
pub(super) fn taken(stacks: &Stacks) -> Option<String> {
    let second =
        i64::try_from(stacks.at.wall_ns / model::time::SECOND_NS).ok().filter(|second| *second > 0)?;
    let at = Timestamp::from_second(second).ok()?;
    Some(at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_profile_is_named() {
        let check = |bytes: &[u8], part: &str| assert!(cure(bytes).contains(part), "{bytes:?}");
        check(b"", "empty");
        check(b"PERFILE2\0\0", "perf_to_profile");
        check(b"{\"nodes\":[]}", "JSON");
        check(b"main;work 12\n", "text");
        assert_eq!(cure(&[0x0a, 0, 1, 2]), "");
    }

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(shown("go.etcd.io/x.\u{1b}[2Jf\n"), "x.[2Jf");
        assert_eq!(shown(&"x".repeat(1_000)).len(), NAME_SHOWN);
    }
}
