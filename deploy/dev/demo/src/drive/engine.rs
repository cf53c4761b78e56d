//! By what the members are profiled here: by the kernel, with nothing of etcd's switched on for it, where the host permits
//! that; else by etcd's own endpoint, and then it is said what is missing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::agent::Agent;
use serde_json::Value;

/// What the agent tries, and how long that may take.
const EXAMINATION: Duration = Duration::from_secs(30);
/// Samples of members, which are our own processes.
const SAMPLES: [&str; 2] = ["node_cpu", "own_cpu"];
/// Heaps from their memory.
const HEAP: &str = "heap";

/// The choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Kernel,
    Endpoint,
}

/// Asks `agent doctor`, and says why where it is not the kernel.
pub(super) fn choose(dir: &Path) -> Result<Engine> {
    let examined = Agent::run(dir, &["doctor", "--output", "json"], &[], EXAMINATION)?;
    ensure!(!examined.stdout.is_empty(), "agent doctor: {}", examined.stderr);
    let told: Value = serde_json::from_str(&examined.stdout).context("agent doctor")?;
    let finding = |part: &str| told["findings"].as_array()?.iter().find(|finding| finding["part"] == part);
    let is_ok = |part: &str| finding(part).is_some_and(|finding| finding["state"] == "ok");
    if SAMPLES.into_iter().any(is_ok) && is_ok(HEAP) {
        super::say("", "the kernel samples the members: etcd runs without --enable-pprof");
        return Ok(Engine::Kernel);
    }
    super::say("", "etcd runs with --enable-pprof, for the kernel does not let everything be seen:");
    for part in SAMPLES.into_iter().chain([HEAP]).filter(|part| !is_ok(part)) {
        let text = |key: &str| finding(part).and_then(|finding| finding[key].as_str()).unwrap_or_default();
        super::say("", &format!("  {part}: {}; cure: {}", text("cause"), text("cure")));
    }
    Ok(Engine::Endpoint)
}
