//! What survives a restart: the engine's state and the clock it was written by. Owns the file; an unknown version starts empty and says so.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::time::{Clock, Stamp};
use processors::{Config, Engine};
use serde::{Deserialize, Serialize};

/// Grows when the engine's state changes its shape.
pub(crate) const VERSION: u16 = 6;
/// A larger file is not ours.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// The kernel's name for this boot: monotonic times of another boot mean nothing.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The head of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u16,
    agent: String,
    boot_id: String,
    /// What was added to the kernel's monotonic clock, nanoseconds.
    offset_ns: i64,
    at: Stamp,
}

/// The state directory and the clock that continues it.
#[derive(Debug)]
pub(crate) struct State {
    file: PathBuf,
    boot_id: String,
    offset_ns: i64,
}

/// What was found at start.
#[derive(Debug)]
pub(crate) struct Restored {
    /// Where state is kept from now on.
    pub(crate) state: State,
    /// A clock whose monotonic side goes on where the last run's stopped, across reboots too.
    pub(crate) clock: Clock,
    /// The engine, restored or new.
    pub(crate) engine: Engine,
    /// One sentence for the log: what was restored, or why not.
    pub(crate) told: String,
}

/// Opens the directory (0700, made if missing) and restores what is there.
pub(crate) fn restore(dir: &Path, raw: &Clock, config: Config) -> io::Result<Restored> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let file = dir.join("engine.state");
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
    let (offset_ns, engine, told) = match read(&file) {
        Ok(Some((head, engine))) => {
            let now = raw.now();
            let offset_ns = continued(&head, &boot_id, now);
            let away_s = now.wall_ns.saturating_sub(head.at.wall_ns) / 1_000_000_000;
            (offset_ns, engine, format!("state restored; {away_s} s away are a gap without data"))
        }
        Ok(None) => (0, Engine::new(config), "no state yet".to_owned()),
        Err(why) => (0, Engine::new(config), format!("started empty: {why}")),
    };
    let raw = raw.clone();
    let clock = Clock::new(move || {
        let stamp = raw.now();
        Stamp { mono_ns: stamp.mono_ns.saturating_add_signed(offset_ns), wall_ns: stamp.wall_ns }
    });
    Ok(Restored { state: State { file, boot_id, offset_ns }, clock, engine, told })
}

/// The offset under which monotonic time goes on: the same within a boot, else moved on by the wall time away.
fn continued(head: &Head, boot_id: &str, now: Stamp) -> i64 {
    if head.boot_id == boot_id && !boot_id.is_empty() {
        return head.offset_ns;
    }
    let away_ns = now.wall_ns.saturating_sub(head.at.wall_ns);
    let resumed = head.at.mono_ns.saturating_add(away_ns);
    i64::try_from(i128::from(resumed) - i128::from(now.mono_ns)).unwrap_or(0)
}

fn read(file: &Path) -> Result<Option<(Head, Engine)>, String> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", file.display())),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return Err(format!("{} is larger than any state of ours", file.display()));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (head, rest): (Head, &[u8]) = postcard::take_from_bytes(&bytes)
        .map_err(|error| format!("{} is damaged: {error}", file.display()))?;
    if head.version != VERSION || head.agent != env!("CARGO_PKG_VERSION") {
        return Err(format!(
            "state of agent {} (format {}) is not read by {}",
            head.agent,
            head.version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let engine =
        postcard::from_bytes(rest).map_err(|error| format!("{} is damaged: {error}", file.display()))?;
    Ok(Some((head, engine)))
}

impl State {
    /// Writes the engine's state beside the old one and renames it over: a crash leaves one of the two, whole.
    pub(crate) fn save(&self, engine: &Engine, at: Stamp) -> io::Result<()> {
        let head = Head {
            version: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            offset_ns: self.offset_ns,
            at,
        };
        let bytes = postcard::to_stdvec(&head).map_err(io::Error::other)?;
        let bytes = postcard::to_extend(engine, bytes).map_err(io::Error::other)?;
        let partial = self.file.with_extension("partial");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&bytes)?;
        fs::rename(&partial, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: u64 = 3_600_000_000_000;

    fn at(mono_ns: u64, wall_ns: u64) -> Clock {
        Clock::new(move || Stamp { mono_ns, wall_ns })
    }

    #[test]
    fn monotonic_time_goes_on_after_a_reboot() {
        let head = Head {
            version: VERSION,
            agent: String::new(),
            boot_id: "before".to_owned(),
            offset_ns: 0,
            at: Stamp { mono_ns: 10 * HOUR_NS, wall_ns: 100 * HOUR_NS },
        };
        let now = Stamp { mono_ns: 5, wall_ns: 101 * HOUR_NS };
        let offset = continued(&head, "after", now);
        assert_eq!(now.mono_ns.saturating_add_signed(offset), 11 * HOUR_NS);
        assert_eq!(continued(&head, "before", now), 0);
    }

    #[test]
    fn damaged_state_starts_empty_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let clock = at(1, 1);
        let first = restore(dir.path(), &clock, Config::default()).unwrap();
        assert_eq!(first.told, "no state yet");
        first.state.save(&first.engine, clock.now()).unwrap();
        assert!(restore(dir.path(), &clock, Config::default()).unwrap().told.starts_with("state restored"));
        let file = dir.path().join("engine.state");
        let bytes = fs::read(&file).unwrap();
        for cut in [0, 1, 10, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&file, &bytes[..cut]).unwrap();
            let told = restore(dir.path(), &clock, Config::default()).unwrap().told;
            assert!(told.starts_with("started empty: "), "cut at {cut}: {told}");
        }
    }
}
