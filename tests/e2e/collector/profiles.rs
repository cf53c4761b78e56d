//! Profiles: what was written against the pprof files that the agent keeps, which are etcd's own bytes.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, bail, ensure};
use harness::{
    collector::written::{Item, Written},
    daemon::Seat,
};
use model::{profile::ProfileKind, time::Stamp};

/// Every profile that the agent put into a file arrived as well, with the same stacks, values, types and period.
pub(super) fn profiles_arrived(seat: &Seat, written: &Written) -> Result<()> {
    let files = seat.folder().files("state/profiles")?;
    let mut compared = 0;
    for (path, _, bytes) in &files {
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pb.gz")) else {
            continue;
        };
        let (name, role) = name.strip_suffix(".before").map_or((name, "after"), |name| (name, "before"));
        let (kind, of, unit) = match name {
            "cpu" => (ProfileKind::Cpu, "cpu", "nanoseconds"),
            "heap" => (ProfileKind::Heap, "inuse_space", "bytes"),
            _ => (ProfileKind::Goroutine, "goroutine", "count"),
        };
        let (stacks, _) = profile::gopprof::decode(bytes, kind, Stamp::default())?;
        if stacks.samples.is_empty() {
            continue;
        }
        let Some((target, request)) = capture(path) else {
            bail!("no capture is kept at {}", path.display())
        };
        let is_it = |item: &&Item| {
            let typed = item.value.get("sampleType");
            let attributes = item.attributes();
            let says = |key: &str, word: &str| attributes.get(key).is_some_and(|is| is == word);
            item.word(typed.and_then(|typed| typed.get("typeStrindex"))) == of
                && says("backburn.capture.role", role)
                && says("backburn.capture.target", target)
                && says("backburn.capture.request", request)
        };
        let found: Vec<&Item> = written.profiles.iter().filter(is_it).collect();
        let &[item] = found.as_slice() else { bail!("{} profiles for {}", found.len(), path.display()) };
        let mut expected: BTreeMap<Vec<String>, i64> = BTreeMap::new();
        for sample in &stacks.samples {
            let frame = |at: &u32| stacks.frames[*at as usize].function as usize;
            let names = sample.frames.iter().map(|at| stacks.functions[frame(at)].name.clone()).collect();
            *expected.entry(names).or_default() += sample.value;
        }
        ensure!(item.stacks() == expected, "{}: other stacks arrived", path.display());
        ensure!(item.word(item.value.pointer("/sampleType/unitStrindex")) == unit, "{}", item.value);
        ensure!(item.number("period") == stacks.period.max(1), "period {}", item.number("period"));
        ensure!(item.number("durationNano") == stacks.duration_ns, "{}", path.display());
        ensure!(item.text("profileId").len() == 32, "{}", item.text("profileId"));
        ensure!(
            item.service() == "etcd" && item.resource.contains_key("etcd.member.name"),
            "{:?}",
            item.resource
        );
        compared += 1;
    }
    ensure!(compared >= 4, "{compared} profiles in {} files", files.len());
    ensure!(compared == written.profiles.len(), "{compared} of {}", written.profiles.len());
    Ok(())
}

/// Whose capture a file belongs to, and by which request: its folder is `<time>-<target>-<request>`.
fn capture(file: &Path) -> Option<(&str, &str)> {
    let (_, of) = file.parent()?.file_name()?.to_str()?.split_once('-')?;
    of.rsplit_once('-')
}
