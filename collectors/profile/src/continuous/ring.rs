//! The ring as captures see it: what is put in, and the two sides of a comparison that come out.

use std::fs;

use model::ledger::Ledger;
use model::profile::{Baseline, Losses};
use model::time::Stamp;

use super::processes::Who;
use super::{Config, Missed, Side, Taken, Wish};
use crate::history::account::Account;
use crate::history::reader::{Placed, Reader};
use crate::history::selection::{Filter, Range, Selection};
use crate::history::writer::{OpenError, Writer};
use crate::history::{Boot, Window};

/// The kernel's name of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The writer, and what was told of it.
#[derive(Debug)]
pub(super) struct Ring {
    writer: Writer,
    boot: Boot,
    told: Account,
    ledger: Ledger,
}

impl Ring {
    pub(super) fn open(config: &Config, ledger: Ledger) -> Result<Ring, OpenError> {
        // Without it windows of two boots could be taken for neighbours, but for their wall clock.
        let boot = fs::read_to_string(BOOT_ID).ok().and_then(|text| Boot::parse(&text)).unwrap_or_default();
        let writer = Writer::open(&config.ring, config.limits, boot)?;
        Ok(Ring { writer, boot, told: Account::default(), ledger })
    }

    pub(super) fn append(&mut self, window: &Window) {
        self.writer.append(window);
        let now = self.writer.account().clone();
        self.ledger.add("agent_history_windows_total", "", now.windows.saturating_sub(self.told.windows));
        let before: Vec<(&'static str, u64)> = self.told.losses();
        for (reason, count) in now.losses() {
            let told = before.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count);
            self.ledger.add("agent_history_lost_total", reason, count.saturating_sub(told));
        }
        self.ledger.set("agent_history_written_bytes", "", now.bytes);
        self.told = now;
    }

    pub(super) fn flush(&mut self) {
        self.writer.flush();
    }

    /// The windows since `began`, beside those of before.
    pub(super) fn taken(
        &mut self,
        wish: &Wish,
        (began, hz): (Stamp, u32),
        who: &Who,
        losses: Losses,
    ) -> Result<Taken, Missed> {
        let (unwritten, life) = (self.writer.unwritten(), self.writer.life());
        let reader = Reader::open_with(self.writer.path(), unwritten).map_err(|_| Missed::Lost)?;
        let since = |window: &&Placed| window.life == life && window.at.mono_ns >= began.mono_ns;
        let mut own = reader.windows().iter().filter(since).map(|window| window.sequence);
        let first = own.next().ok_or(Missed::Lost)?;
        let range = Range::Windows { first, last: own.next_back().unwrap_or(first) };
        let mut after = side(reader.select(range, &who.filter())).ok_or(Missed::Lost)?;
        after.stacks.losses = losses;
        let chosen = reader.choose_baseline(wish.asked, self.boot, wish.before_mono_ns);
        let before = chosen.range.and_then(|range| before(&reader, (range, self.boot), who));
        let baseline = if before.is_some() { chosen.label } else { Baseline::Missing };
        Ok(Taken { after, before, baseline, hz })
    }
}

/// What the member's processes did then. A member that was restarted since the agent came is known by all its numbers. Where
/// none of them had run yet, and in another boot, where numbers mean others, a process of the same name was it, if no other
/// member is on this node and nobody else of that name ran then: there are members that nobody told us of.
fn before(reader: &Reader, (range, boot): (Range, Boot), who: &Who) -> Option<Side> {
    let select = |filter: &Filter| {
        side(reader.select(range, filter).while_seen()).filter(|side| side.counts.samples > 0)
    };
    let mut windows = reader.windows().iter().filter(|window| range.contains(window));
    let by_number = if windows.all(|window| window.boot == boot) { select(&who.filter()) } else { None };
    by_number.or_else(|| {
        let process = who.name.clone().filter(|_| who.is_alone)?;
        let namesake = select(&Filter { process: Some(process), ..Filter::default() })?;
        let mut owners = namesake.stacks.owners.iter().map(|owner| owner.pid);
        let first = owners.next();
        owners.all(|pid| Some(pid) == first).then_some(namesake)
    })
}

fn side(selection: Selection) -> Option<Side> {
    let counts = selection.joined()?;
    Some(Side { stacks: selection.stacks, counts })
}
