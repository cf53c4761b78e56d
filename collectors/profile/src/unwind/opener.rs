//! Opens files on a thread of its own, so that reading samples waits for none of them longer than is good for its rings.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use foldhash::HashMap;

use crate::binaries::{Binaries, Binary, Missing};
use crate::perf::modules::{Kind, Module};
use crate::perf::record::Meta;
use crate::perf::sys::monotonic_ns;

/// How long samples wait for files: opening an etcd takes 20 ms, and a ring holds a quarter of a second at the fastest rate
/// with the biggest stacks. A file that takes all of it is not waited for again.
const PATIENCE: Duration = Duration::from_millis(60);
/// In so much time of the samples: on a busy node each of several programs takes as long, and meanwhile the rings fill.
const PATIENCE_EVERY_NS: u64 = 250_000_000;
/// Files under way. What finds no place asks again with its next sample.
const QUEUE_MAX: usize = 64;
/// Modules that something is known of: as many as `perf::modules` knows.
const KNOWN_MAX: usize = 16_384;
/// A process that is ending shows no file, and its sibling may: as often is a file asked for.
const ATTEMPTS_MAX: u8 = 3;
/// How often is looked whether somebody wrote to a file.
const LOOK_EVERY_NS: u64 = 10_000_000_000;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A program with Go's tables.
    Go,
    /// Something else.
    Other,
    /// Being opened.
    NotYet,
    /// Not to be had.
    Missing(Missing),
}

#[derive(Debug)]
struct State {
    found: Found,
    /// Held by the table of open files, which lets go of those that nobody has asked for in a while.
    binary: Weak<Binary>,
    attempts: u8,
    looked_ns: u64,
}

type Answer = (u32, Result<Arc<Binary>, Missing>);

#[derive(Debug)]
struct Worker {
    asks: SyncSender<(Arc<Module>, u32)>,
    answers: Receiver<Answer>,
}

/// Modules by their numbers.
#[derive(Debug)]
pub(super) struct Opener {
    binaries: Binaries,
    known: HashMap<u32, State>,
    worker: Option<Worker>,
    under_way: usize,
    /// What is left of it, and since when.
    patience: (Duration, u64),
    /// The last answer came too late: nobody waits until there is one.
    is_slow: bool,
    has_changed: bool,
}

impl Opener {
    pub(super) fn new(binaries: Binaries) -> Opener {
        Opener {
            binaries,
            known: HashMap::default(),
            worker: None,
            under_way: 0,
            patience: (PATIENCE, 0),
            is_slow: false,
            has_changed: false,
        }
    }

    /// What is known of a module, which this process maps.
    pub(super) fn found(&mut self, module: &Arc<Module>, meta: Meta) -> Found {
        if matches!(module.kind, Kind::Anonymous | Kind::Vdso) {
            return Found::Other;
        }
        self.hear();
        match self.known.get_mut(&module.id) {
            Some(state) => {
                let is_stale = meta.time_ns.saturating_sub(state.looked_ns) >= LOOK_EVERY_NS;
                match state.found {
                    Found::Go if is_stale => {
                        state.looked_ns = meta.time_ns;
                        if state.binary.upgrade().is_none_or(|binary| binary.is_as_it_was()) {
                            return Found::Go;
                        }
                        self.has_changed = true;
                    }
                    Found::Missing(Missing::Gone | Missing::Denied) if state.attempts < ATTEMPTS_MAX => {}
                    found => return found,
                }
            }
            None => self.make_room(),
        }
        self.ask(module, meta);
        self.wait_for(module.id, meta.time_ns);
        self.known.get(&module.id).map_or(Found::NotYet, |state| state.found)
    }

    /// The file of a module with Go's tables.
    pub(super) fn binary(&mut self, module: &Arc<Module>, meta: Meta) -> Option<Arc<Binary>> {
        if self.found(module, meta) != Found::Go {
            return None;
        }
        let held =
            |known: &HashMap<u32, State>| known.get(&module.id).and_then(|state| state.binary.upgrade());
        if let Some(binary) = held(&self.known) {
            return Some(binary);
        }
        self.ask(module, meta);
        self.wait_for(module.id, meta.time_ns);
        held(&self.known)
    }

    /// Whether a file was written to since this was asked the last time.
    pub(super) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    fn make_room(&mut self) {
        // Numbers of modules grow: those that are no longer in use are never asked for again, the others are soon back.
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
    }

    fn ask(&mut self, module: &Arc<Module>, meta: Meta) {
        if self.worker.is_none() {
            self.worker = start(self.binaries.clone());
        }
        let sent = self.worker.as_ref().map(|worker| worker.asks.try_send((Arc::clone(module), meta.pid)));
        let found = match sent {
            Some(Ok(())) => {
                self.under_way += 1;
                Found::NotYet
            }
            // The next sample asks again.
            Some(Err(TrySendError::Full(_))) => return,
            Some(Err(TrySendError::Disconnected(_))) | None => Found::Missing(Missing::Unreadable),
        };
        let attempts = self.known.get(&module.id).map_or(1, |state| state.attempts.saturating_add(1));
        self.known.insert(module.id, State { found, binary: Weak::new(), attempts, looked_ns: meta.time_ns });
    }

    /// Takes the answers that are there.
    fn hear(&mut self) {
        while self.under_way > 0 {
            let Some(answer) = self.worker.as_ref().and_then(|worker| worker.answers.try_recv().ok()) else {
                return;
            };
            self.take(answer);
        }
    }

    fn wait_for(&mut self, id: u32, now_ns: u64) {
        if now_ns.saturating_sub(self.patience.1) >= PATIENCE_EVERY_NS {
            self.patience = (PATIENCE, now_ns);
        }
        let is_open = |known: &HashMap<u32, State>| {
            known.get(&id).is_some_and(|state| matches!(state.found, Found::NotYet))
        };
        while !self.is_slow && self.under_way > 0 && is_open(&self.known) && !self.patience.0.is_zero() {
            let (began_ns, patience) = (monotonic_ns(), self.patience.0);
            let answer = self.worker.as_ref().map(|worker| worker.answers.recv_timeout(patience));
            let waited = Duration::from_nanos(monotonic_ns().saturating_sub(began_ns));
            self.patience.0 = patience.saturating_sub(waited);
            match answer {
                Some(Ok(answer)) => self.take(answer),
                Some(Err(RecvTimeoutError::Timeout)) => self.is_slow = patience == PATIENCE,
                Some(Err(RecvTimeoutError::Disconnected)) | None => self.under_way = 0,
            }
        }
    }

    fn take(&mut self, (id, opened): Answer) {
        self.under_way = self.under_way.saturating_sub(1);
        self.is_slow = false;
        let Some(state) = self.known.get_mut(&id) else { return };
        state.found = match opened {
            Ok(binary) if binary.is_go() => {
                state.binary = Arc::downgrade(&binary);
                Found::Go
            }
            Ok(_) => Found::Other,
            Err(missing) => Found::Missing(missing),
        };
    }
}

/// The thread that opens. It ends when nobody can ask it any more; whoever it waits for then holds up nobody.
fn start(binaries: Binaries) -> Option<Worker> {
    let (asks, asked) = sync_channel::<(Arc<Module>, u32)>(QUEUE_MAX);
    // One more than can be under way, so that it never waits for us.
    let (answer, answers) = sync_channel(QUEUE_MAX + 2);
    let opens = move || {
        for (module, pid) in asked {
            if answer.send((module.id, binaries.open(&module, pid))).is_err() {
                return;
            }
        }
    };
    let spawned = thread::Builder::new().name("binaries".to_owned()).spawn(opens);
    spawned.ok().map(|_| Worker { asks, answers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::modules::Modules;
    use crate::perf::record::Identity;

    /// An opener whose files are opened when the test says so.
    fn opener() -> (Opener, SyncSender<()>) {
        let (asks, asked) = sync_channel::<(Arc<Module>, u32)>(QUEUE_MAX);
        let (answer, answers) = sync_channel(QUEUE_MAX + 2);
        let (gate, told) = sync_channel(QUEUE_MAX);
        thread::spawn(move || {
            for (module, _) in asked {
                if told.recv().is_err() || answer.send((module.id, Err(Missing::Replaced))).is_err() {
                    return;
                }
            }
        });
        let opener = Opener { worker: Some(Worker { asks, answers }), ..Opener::new(Binaries::default()) };
        (opener, gate)
    }

    /// So many rounds after the beginning.
    fn after(rounds: u64) -> Meta {
        Meta { time_ns: rounds * PATIENCE_EVERY_NS, ..Meta::default() }
    }

    #[test]
    fn samples_wait_for_several_files_no_longer_than_for_one() {
        let (mut opener, gate) = opener();
        let mut modules = Modules::default();
        let mut file = |inode: u64| {
            let identity = Identity::Inode { major: 8, minor: 1, inode };
            modules.intern(1, identity, b"/usr/bin/etcd").unwrap()
        };
        let missing = Found::Missing(Missing::Replaced);
        gate.send(()).unwrap();
        assert_eq!(opener.found(&file(1), after(1)), missing);
        // What is left is waited for the second, and nothing for the third.
        assert_eq!([2, 3].map(|inode| opener.found(&file(inode), after(1))), [Found::NotYet; 2]);
        assert_eq!(opener.patience.0, Duration::ZERO);
        assert!(!opener.is_slow, "nobody knows whether the second takes all of the patience");
        // A round later there is patience again.
        (0..3).for_each(|_| gate.send(()).unwrap());
        assert_eq!([4, 3, 2].map(|inode| opener.found(&file(inode), after(2))), [missing; 3]);
        // Who takes all of it is not waited for, nor who comes behind it.
        assert_eq!(opener.found(&file(5), after(3)), Found::NotYet);
        assert!(opener.is_slow);
        assert_eq!(opener.found(&file(6), after(4)), Found::NotYet);
        assert_eq!(opener.patience.0, PATIENCE);
    }
}
