//! The whole way to a rollback: a rollout slows etcd down for its callers, one signed signal leaves, and none too many,
//! whenever the agent is killed.

mod hour;

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use harness::{
    daemon::{self, CALM, Daemon, Seat, writes_are_fast},
    etcd::Version,
    incident::Incident,
    process::wait_until,
    webhook::{Received, Reply, Webhook},
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

/// Detection takes ten to twenty seconds, the return to `pass` fifteen more; a busy host takes its share.
const SOON: Duration = Duration::from_secs(90);

/// Longer than any retry of a delivery takes to begin.
const QUIET: Duration = Duration::from_secs(4);

const KEY: &[u8] = b"thirty-two bytes of a shared key";

const RATES: &str = "scrape: { interval: 2s }
profile: { enabled: false }
probe: { writes: true, serializable_read_hz: 0.2, linearizable_read_hz: 0.3, status_hz: 0, lease_hz: 0.5, put_hz: 0 }
verdict: { enforce: true }
";

/// Twice the demo's: a busy host keeps below it for most writes, and a stall of the incident does not.
const WRITE_LIMIT_MS: u32 = 64;

struct Stage {
    incident: Incident,
    hook: Webhook,
    seat: Seat,
}

impl Stage {
    fn set(name: &str, version: Version, write_limit_ms: u32) -> Result<Stage> {
        let hook = Webhook::start()?;
        let seat = Seat::new(name)?;
        let incident = Incident::new(version, seat.folder().path())?;
        let secret = seat.folder().write("secret", &format!("whsec_{}\n", STANDARD.encode(KEY)))?;
        let (url, log, secret) = (hook.url(), incident.orders.log().display(), secret.display());
        let rest = format!(
            "slo: {{ write_limit: {write_limit_ms}ms }}
logs: {{ files: [\"{log}\"], start_at: beginning }}
rollback:
  webhooks:
    - {{ name: deployer, url: {url}, allow_http: true, timeout: 2s, secret: {{ file: {secret} }} }}
"
        );
        seat.configure(&format!("{}{rest}{RATES}", daemon::named(&incident.cluster, true)))?;
        Ok(Stage { incident, hook, seat })
    }

    fn start(&self) -> Result<Daemon> {
        self.seat.start(&[])
    }

    /// v1 for long enough that `pass` means something, then v2.
    fn roll_out(&self, agent: &Daemon) -> Result<()> {
        agent.wait_for("fast writes", CALM, writes_are_fast)?;
        self.seat.mark(&["--target", "orders", "--revision", "v1"])?;
        agent.wait_for("pass for v1", CALM, |board| {
            (daemon::decision(board, "orders")?["state"] == "pass").then_some(())
        })?;
        agent.wait_for("writes that are fast under v1", CALM, writes_are_fast)?;
        ensure!(self.hook.received().is_empty(), "a signal without trouble");
        self.seat.mark(&["--target", "orders", "--revision", "v2"])?;
        self.incident.turn_bad();
        Ok(())
    }

    fn put_back(&self) -> Result<()> {
        self.incident.turn_good();
        self.seat.mark(&["--target", "orders", "--revision", "v1b", "--rollback-of", "v2"])
    }

    /// Requests of one type so far; every signature is verified on the way.
    fn events(&self, kind: &str) -> Result<Vec<Received>> {
        let received = self.hook.received();
        for one in &received {
            verify(one)?;
        }
        let wanted = format!("dev.backburn.{kind}");
        Ok(received.into_iter().filter(|one| body(one)["type"] == wanted.as_str()).collect())
    }

    fn wait_for_event(&self, kind: &str, number: usize) -> Result<Received> {
        wait_until(&format!("{kind} number {number}"), SOON, || {
            let last = self.agent_said();
            let found = self.events(kind)?.get(number - 1).cloned();
            found.map_or_else(|| anyhow::bail!("the agent said last: {last}"), |found| Ok(Some(found)))
        })
    }

    fn agent_said(&self) -> String {
        let said =
            std::fs::read_to_string(self.seat.folder().path().join("agent.stderr")).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines.split_at(lines.len().saturating_sub(6)).1.join("\n")
    }
}

fn body(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap_or_default()
}

/// Standard Webhooks: HMAC-SHA-256 over id, time and body.
fn verify(received: &Received) -> Result<()> {
    let (id, at) = (received.header("webhook-id"), received.header("webhook-timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY)?;
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(&received.body);
    let wanted = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    ensure!(
        received.header("webhook-signature").split(' ').any(|one| one == wanted),
        "not signed: {received:?}"
    );
    let sent: i64 = at.parse().context("webhook-timestamp")?;
    let now = received.at.duration_since(std::time::SystemTime::UNIX_EPOCH)?.as_secs();
    ensure!(sent.abs_diff(i64::try_from(now)?) <= 5, "signed at {sent}, arrived at {now}");
    ensure!(body(received)["id"] == id, "the body has another id than the header: {received:?}");
    Ok(())
}

fn ids(received: &[Received]) -> BTreeSet<String> {
    received.iter().map(|one| one.header("webhook-id").to_owned()).collect()
}

fn one_signal_and_its_end(version: Version) -> Result<()> {
    let stage = Stage::set(&format!("rollback-{version}"), version, WRITE_LIMIT_MS)?;
    stage.incident.play(|| {
        let agent = stage.start()?;
        stage.roll_out(&agent)?;
        let signal = body(&stage.wait_for_event("rollback.v1", 1)?);
        let data = &signal["data"];
        ensure!(data["target"] == "orders" && data["revision"] == "v2", "{signal:#}");
        ensure!(data["state"] == "rollback" && data["dry_run"] == false, "{signal:#}");
        ensure!(
            data["valid_until"].as_str().is_some_and(|until| until > signal["time"].as_str().unwrap_or("~"))
        );
        ensure!(data["evidence"]["sentence"].as_str().is_some_and(|text| text.len() > 20), "{signal:#}");
        ensure!(data["evidence"]["trace_ids"].as_array().is_some_and(|ids| !ids.is_empty()), "{signal:#}");
        let stored = data["evidence"]["stored_at"].as_str().context("no place of the evidence")?;
        ensure!(std::path::Path::new(stored).is_file(), "no evidence at {stored}");

        stage.put_back()?;
        let resolved = body(&stage.wait_for_event("rollback.resolved.v1", 1)?);
        ensure!(resolved["signalid"] == signal["id"] && resolved["id"] != signal["id"], "{resolved:#}");
        agent.wait_for("pass after the put-back", SOON, |board| {
            (daemon::decision(board, "orders")?["state"] == "pass").then_some(())
        })?;
        thread::sleep(QUIET);
        ensure!(stage.events("rollback.v1")?.len() == 1 && stage.events("rollback.resolved.v1")?.len() == 1);
        agent.stop()
    })
}

#[test]
fn a_rollout_that_slows_writes_is_signalled_once_signed_and_resolved_on_3_5() {
    one_signal_and_its_end(Version::V3_5).unwrap();
}

#[test]
fn an_agent_killed_before_between_and_after_sending_has_one_effect_with_one_id() {
    let stage = Stage::set("rollback-killed", Version::V3_6, WRITE_LIMIT_MS).unwrap();
    let played = stage.incident.play(|| {
        // Refused for now: it is killed between two attempts.
        stage.hook.respond(Reply::Status(503));
        let agent = stage.start()?;
        stage.roll_out(&agent)?;
        stage.wait_for_event("rollback.v1", 1)?;
        agent.agent.kill()?;

        // Taken and never answered: it is killed while it waits, and cannot know.
        stage.hook.respond(Reply::Hang);
        let seen = stage.events("rollback.v1")?.len();
        let agent = stage.start()?;
        stage.wait_for_event("rollback.v1", seen + 1)?;
        agent.agent.kill()?;

        // Acknowledged: it is killed at once, perhaps before it has written that down.
        stage.hook.respond(Reply::Status(204));
        let seen = stage.events("rollback.v1")?.len();
        let agent = stage.start()?;
        stage.wait_for_event("rollback.v1", seen + 1)?;
        agent.agent.kill()?;

        // Whatever it knew, it is silent soon: at most one repetition, with the id that was acted upon.
        let seen = stage.events("rollback.v1")?.len();
        let agent = stage.start()?;
        thread::sleep(QUIET);
        let all = stage.events("rollback.v1")?;
        ensure!(all.len() <= seen + 1, "acknowledged, and sent {} times more", all.len() - seen);
        ensure!(ids(&all).len() == 1, "one rollout, many signals: {:?}", ids(&all));
        agent.agent.kill()?;

        // And a restart after all that adds nothing.
        let agent = stage.start()?;
        thread::sleep(QUIET);
        ensure!(stage.events("rollback.v1")?.len() == all.len(), "acknowledged, and sent again");

        stage.put_back()?;
        stage.wait_for_event("rollback.resolved.v1", 1)?;
        thread::sleep(QUIET);
        ensure!(ids(&stage.events("rollback.v1")?).len() == 1);
        ensure!(stage.events("rollback.resolved.v1")?.len() == 1);
        agent.stop()
    });
    played.unwrap();
}

#[test]
fn an_agent_killed_as_soon_as_its_evidence_is_on_disk_still_signals_once() {
    let stage = Stage::set("rollback-evidence", Version::V3_5, WRITE_LIMIT_MS).unwrap();
    let played = stage.incident.play(|| {
        let agent = stage.start()?;
        stage.roll_out(&agent)?;
        let journal = stage.seat.folder().path().join("state/rollback");
        let holds_evidence = |text: &str| text.contains("\"sentence\"");
        wait_until("evidence on disk", SOON, || {
            let files = stage.seat.folder().files("state/rollback")?;
            let evident = files.iter().any(|(_, _, bytes)| holds_evidence(&String::from_utf8_lossy(bytes)));
            Ok(evident.then_some(()))
        })
        .with_context(|| format!("in {}", journal.display()))?;
        agent.agent.kill()?;
        let agent = stage.start()?;
        stage.wait_for_event("rollback.v1", 1)?;
        thread::sleep(QUIET);
        let all = stage.events("rollback.v1")?;
        ensure!(ids(&all).len() == 1 && all.len() <= 2, "{all:#?}");
        stage.put_back()?;
        stage.wait_for_event("rollback.resolved.v1", 1)?;
        agent.stop()
    });
    played.unwrap();
}
