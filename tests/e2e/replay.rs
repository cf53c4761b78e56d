//! A recording of a real regression gives the same conclusions again, anywhere, and says so when it is damaged.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    agent::Finished,
    daemon::{self, CALM, Seat},
    etcd::Version,
    incident::Incident,
};
use serde_json::Value;

/// As for a rollback.
const SOON: Duration = Duration::from_secs(90);

/// One half hour east of where the whole hours are, one west: whoever prints local time is found out.
const ZONES: [&str; 3] = ["UTC", "Asia/Kolkata", "America/St_Johns"];

/// Baselines of three members within the first seconds, before anything is rolled out. By endpoints, for the goroutines: of a
/// busy host, as this one may be, a capture by samples asks for none.
const RATES: &str = "profile: { engine: pprof, cpu: 1s, baseline_cpu: 1s }
probe: { writes: true, serializable_read_hz: 0.2, linearizable_read_hz: 0.3, status_hz: 0, lease_hz: 0.5, put_hz: 0 }
slo: { write_limit: 64ms }
";

/// Records until the rollback was decided and taken back, and gives what the board showed last.
fn record(seat: &Seat) -> Result<Value> {
    let incident = Incident::new(Version::V3_5, seat.folder().path())?;
    let logs = format!("logs: {{ files: [\"{}\"], start_at: beginning }}\n", incident.orders.log().display());
    seat.configure(&format!("{}{logs}{RATES}", daemon::named(&incident.cluster, true)))?;
    let agent = seat.record("incident.recording")?;
    let is = |state: &'static str| {
        move |board: &Value| (daemon::decision(board, "orders")?["state"] == state).then(|| board.clone())
    };
    let mut last = Value::Null;
    incident.play(|| {
        agent.wait_for("fast writes", CALM, daemon::writes_are_fast)?;
        seat.mark(&["--target", "orders", "--revision", "v1"])?;
        agent.wait_for("pass for v1", CALM, is("pass"))?;
        agent.wait_for("a baseline of writes", SOON, daemon::has_baseline_of_writes)?;
        seat.mark(&["--target", "orders", "--revision", "v2"])?;
        incident.turn_bad();
        agent.wait_for("rollback of v2", SOON, is("rollback"))?;
        agent.wait_for("what changed in the profile", SOON, |board| {
            (!daemon::findings(board, "profile_diff").is_empty()).then_some(())
        })?;
        incident.turn_good();
        seat.mark(&["--target", "orders", "--revision", "v1b", "--rollback-of", "v2"])?;
        last = agent.wait_for("pass after the put-back", SOON, is("pass"))?;
        Ok(())
    })?;
    agent.stop()?;
    Ok(last)
}

fn replay(seat: &Seat, file: &Path, zone: &str) -> Result<Finished> {
    seat.command(&["replay", file.to_str().context("path")?], &[("TZ", zone)])
}

/// What a replay printed, a JSON value a line.
fn lines(replayed: &Finished) -> Result<Vec<Value>> {
    let parse = |line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"));
    replayed.stdout.lines().map(parse).collect()
}

fn the_same_anywhere(seat: &Seat, file: &Path, last: &Value) -> Result<Finished> {
    let here = replay(seat, file, ZONES[0])?;
    for zone in ZONES {
        let there = replay(seat, file, zone)?;
        ensure!(there.status.code() == Some(0), "{zone}: {}", there.stderr);
        ensure!(there.stdout == here.stdout, "{zone} concludes otherwise");
    }
    let said = lines(&here)?;
    let states: Vec<&str> = said
        .iter()
        .filter(|line| line.pointer("/decision/target").is_some_and(|target| target == "orders"))
        .filter_map(|line| line.pointer("/decision/state")?.as_str())
        .collect();
    ensure!(states.contains(&"rollback") && states.last() == Some(&"pass"), "{states:?}");
    is_profiled(seat, file, &said)?;
    // The board is what the recording run itself concluded, read over another way than the recording.
    for shown in last["findings"].as_array().context("no findings")? {
        ensure!(said.iter().any(|line| line["finding"] == *shown), "shown, not said again: {shown:#}");
    }
    Ok(here)
}

/// The capture was recorded whole, with the baseline it is held against, and the diff is drawn from it again.
fn is_profiled(seat: &Seat, file: &Path, said: &[Value]) -> Result<()> {
    let diffs = said.iter().filter_map(|line| line.pointer("/finding/conclusion/profile_diff"));
    // On a busy host a member may have no CPU for a second; its goroutines are always there.
    let diff = diffs.clone().find(|diff| diff["kind"] == "goroutine");
    let diff = diff.with_context(|| format!("what is said again: {:?}", diffs.collect::<Vec<_>>()))?;
    ensure!(diff["baseline"] == "before_marker" && diff["after_samples"].as_u64() > Some(0), "{diff:#}");
    let asked = said.iter().any(|line| {
        // Whichever of the two came first.
        let is_trouble = ["/finding/conclusion/regression", "/finding/conclusion/burn"];
        line["finding"]["id"] == diff["finding"] && is_trouble.iter().any(|what| line.pointer(what).is_some())
    });
    ensure!(asked, "neither a regression nor a burn asked for it: {diff:#}");
    let path = file.to_str().context("path")?;
    let with_records = seat.command(&["replay", path, "--records"], &[])?;
    let capture = lines(&with_records)?.into_iter().find_map(|line| {
        let capture = line.pointer("/record/fact/Capture")?.clone();
        (capture["request"] == diff["request"]).then_some(capture)
    });
    let done = capture.as_ref().and_then(|capture| capture.pointer("/outcome/Done"));
    let done = done.with_context(|| format!("no capture is recorded: {diff:#}"))?;
    for side in ["before", "after"] {
        let counts = done[side]["counts"].as_array().map_or(0, Vec::len);
        ensure!(counts > 0, "the capture has no {side}");
    }
    Ok(())
}

/// Where the blocks of a recording end: behind a mark and a version each is a length and as many bytes.
fn block_ends(whole: &[u8]) -> Result<Vec<usize>> {
    let mut ends = vec![10];
    let mut at = 10;
    while at < whole.len() {
        let head = whole.get(at..).and_then(|rest| rest.first_chunk()).context("torn already")?;
        at += 4 + u32::from_le_bytes(*head) as usize;
        ends.push(at);
    }
    ensure!(ends.len() > 5 && at == whole.len(), "{} blocks", ends.len());
    Ok(ends)
}

fn cut_anywhere(seat: &Seat, whole: &[u8], said: &str) -> Result<()> {
    let ends = block_ends(whole)?;
    // "Random", but the same again for whoever looks for a failure; the beginning stands in the first block.
    let mut at = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..6 {
        at ^= at << 13;
        at ^= at >> 7;
        at ^= at << 17;
        let cut = ends[1] + 1 + usize::try_from(at % (whole.len() - ends[1] - 1) as u64)?;
        let file = seat.folder().path().join("cut.recording");
        fs::write(&file, &whole[..cut])?;
        let replayed = replay(seat, &file, "UTC")?;
        ensure!(replayed.status.code() == Some(0), "cut at {cut} of {}: {}", whole.len(), replayed.stderr);
        ensure!(said.starts_with(&replayed.stdout), "cut at {cut}: other lines");
        let told = replayed.stderr.contains("torn") || ends.contains(&cut);
        ensure!(told, "cut at {cut}, and nobody says so: {}", replayed.stderr);
    }
    Ok(())
}

fn changed_anywhere(seat: &Seat, whole: &[u8]) -> Result<()> {
    let ends = block_ends(whole)?;
    for block in [0, 1, ends.len() / 3, ends.len() - 3] {
        let at = usize::midpoint(ends[block] + 4, ends[block + 1]);
        let mut changed = whole.to_vec();
        changed[at] ^= 0x10;
        let file = seat.folder().path().join("changed.recording");
        fs::write(&file, &changed)?;
        let replayed = replay(seat, &file, "UTC")?;
        ensure!(replayed.status.code() == Some(65), "byte {at} of {}: {}", whole.len(), replayed.stderr);
        ensure!(replayed.stderr.contains("damaged"), "byte {at}: {}", replayed.stderr);
    }
    Ok(())
}

#[test]
fn a_recorded_regression_replays_to_the_same_lines_in_any_zone_and_damage_is_told() {
    let seat = Seat::new("replay").unwrap();
    let last = record(&seat).unwrap();
    let file = seat.folder().path().join("incident.recording");
    let whole = fs::read(&file).unwrap();
    let here = the_same_anywhere(&seat, &file, &last).unwrap();
    cut_anywhere(&seat, &whole, &here.stdout).unwrap();
    changed_anywhere(&seat, &whole).unwrap();
}
