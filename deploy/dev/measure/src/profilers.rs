//! What sampling costs beside the others: profilers in turns on the same node, idle, in a storm of processes, and busy.
//!
//! Owns the turns and what is made of them. Each contender has the same window in each round, and every other round runs
//! backwards, so that a drift of the machine falls on all alike. Of each figure the median over the rounds counts, told with
//! the least and the most. Who cannot take part is named with the reason; that the agent itself cannot is an error.

mod contender;
mod figure;
mod read;
mod scene;
mod stacks;
mod sys;
mod watch;
mod window;

pub(crate) use scene::Load;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::plan::Plan;
use crate::stage::Stage;
use contender::Contender;
use figure::{Figure, Spread, Spreads, Table};
use scene::Scene;
use window::Window;

/// Of one core, everything named and encoded: what a capture of the whole node at 99 Hz may take.
const AIM_PERCENT: f64 = 0.5;

/// In the order of the table.
const ROWS: [Contender; 8] = [
    Contender::Nothing,
    Contender::Capture,
    Contender::Daemon,
    Contender::DaemonBlind,
    Contender::AllDay,
    Contender::Perf,
    Contender::Ebpf,
    Contender::Samply,
];

/// The report of this part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Profilers {
    /// Of each window.
    seconds: u64,
    /// Windows of each contender under each load.
    rounds: usize,
    /// What each says of its version.
    versions: BTreeMap<&'static str, String>,
    /// By load.
    compared: Vec<Compared>,
}

/// All contenders under one load.
#[derive(Clone, Debug, Serialize)]
struct Compared {
    load: Load,
    /// Over all rounds.
    figures: BTreeMap<Contender, Spreads>,
    /// Who could not take part, or failed in a round, and why.
    missing: BTreeMap<Contender, String>,
    /// Each window, in the order in which they were measured.
    windows: Vec<Window>,
}

impl Profilers {
    /// The two loads without etcd; before it is started, so that the node is idle indeed.
    pub(crate) fn before_etcd(dir: &Path, plan: &Plan) -> Result<Profilers> {
        let named = |contender: Contender| Some((contender.name(), contender.version()?));
        let versions = Contender::RUN.into_iter().filter_map(named).collect();
        let (rounds, seconds) = (plan.rounds(), plan.window_s());
        let mut profilers = Profilers { seconds, rounds, versions, compared: Vec::new() };
        for load in plan.loads.iter().copied().filter(|load| *load != Load::Busy) {
            profilers.compared.push(compare(load, dir, None, (rounds, seconds))?);
        }
        Ok(profilers)
    }

    /// And the busy node.
    pub(crate) fn with_etcd(&mut self, stage: &Stage, plan: &Plan) -> Result<()> {
        if plan.loads.contains(&Load::Busy) {
            let turns = (self.rounds, self.seconds);
            self.compared.push(compare(Load::Busy, &stage.dir, Some(stage), turns)?);
        }
        Ok(())
    }

    /// To read.
    pub(crate) fn told(&self) -> String {
        let mut text = format!(
            "  profilers, {} rounds of {} s each in turns; CPU in percent of one core\n",
            self.rounds, self.seconds
        );
        for (name, version) in &self.versions {
            text += &format!("    {name}: {version}\n");
        }
        for compared in &self.compared {
            text += &compared.told();
        }
        text + &self.aims()
    }

    /// Whether a capture of ours takes as little as it should, and loses nothing.
    fn aims(&self) -> String {
        let aim = |compared: &Compared| {
            let figures = compared.figures.get(&Contender::Capture)?;
            let (cpu, lost) = (figures.get(&Figure::CpuWhole)?, figures.get(&Figure::Lost)?);
            let verdict = if cpu.median <= AIM_PERCENT && lost.most == 0.0 { "met" } else { "MISSED" };
            Some(format!(
                "  aim, {}: a capture at 99 Hz takes {:.2} % of one core (at most {AIM_PERCENT}), lost {:.0} (none): {verdict}\n",
                compared.load.told(),
                cpu.median,
                lost.most
            ))
        };
        self.compared.iter().filter_map(aim).collect()
    }
}

fn compare(
    load: Load,
    dir: &Path,
    stage: Option<&Stage>,
    (rounds, seconds): (usize, u64),
) -> Result<Compared> {
    let dir = dir.join("profilers").join(format!("{load:?}").to_lowercase());
    fs::create_dir_all(&dir)?;
    let scene = Scene::begin(load, &dir, stage).with_context(|| load.told())?;
    println!("profilers: {}", load.told());
    let began = Instant::now();
    let mut missing: BTreeMap<Contender, String> =
        Contender::RUN.into_iter().filter_map(|who| Some((who, who.missing(load)?))).collect();
    let absent: Vec<Contender> = missing.keys().copied().collect();
    let mut windows = Vec::new();
    for round in 0..rounds {
        for who in turn(round) {
            if absent.contains(&who) {
                continue;
            }
            let place = dir.join(format!("{round}-{who:?}").to_lowercase());
            let minutes = began.elapsed().as_secs_f64() / 60.0;
            match window::measure(who, &scene, &place, (round, seconds)) {
                Ok(window) => {
                    println!("{minutes:6.1} min  round {}: {}{}", round + 1, who.name(), in_short(&window));
                    windows.push(window);
                }
                Err(error) if who.is_foreign() => {
                    println!("{minutes:6.1} min  round {}: {} fails: {error:#}", round + 1, who.name());
                    missing.insert(who, format!("it failed in round {}: {error:#}", round + 1));
                }
                Err(error) => return Err(error.context(format!("{}, round {}", who.name(), round + 1))),
            }
        }
    }
    windows.extend((0..rounds).filter_map(|round| all_day(&windows, round)).collect::<Vec<_>>());
    hold_against_nothing(&mut windows);
    let figures = Contender::RUN.into_iter().chain([Contender::AllDay]);
    let figures = figures.map(|who| (who, spreads(&windows, who))).collect();
    Ok(Compared { load, figures, missing, windows })
}

/// Forwards, then backwards.
fn turn(round: usize) -> Vec<Contender> {
    let mut order = Contender::RUN.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn in_short(window: &Window) -> String {
    let cpu = window.figures.get(&Figure::CpuWhole).or(window.figures.get(&Figure::CpuWindow));
    cpu.map_or(String::new(), |cpu| format!(", {cpu:.2} % of one core"))
}

/// What sampling all day takes: the daemon that samples, less the one that does not, in the same round.
fn all_day(windows: &[Window], round: usize) -> Option<Window> {
    let find = |who| windows.iter().find(|window| window.round == round && window.contender == who);
    let (with, without) = (find(Contender::Daemon)?, find(Contender::DaemonBlind)?);
    let differ = [Figure::CpuWindow, Figure::PssMib, Figure::HeldMib];
    let difference =
        |figure: Figure| Some((figure, with.figures.get(&figure)? - without.figures.get(&figure)?));
    let figures = differ.into_iter().filter_map(difference).collect();
    Some(Window { round, contender: Contender::AllDay, figures, heard: None })
}

/// What the others got done, in percent of what they get done beside nothing, round by round.
fn hold_against_nothing(windows: &mut [Window]) {
    let base: BTreeMap<usize, BTreeMap<Figure, f64>> = windows
        .iter()
        .filter(|window| window.contender == Contender::Nothing)
        .map(|window| (window.round, window.figures.clone()))
        .collect();
    for window in windows.iter_mut().filter(|window| window.contender != Contender::Nothing) {
        for (figure, change) in Figure::CHANGES {
            let before =
                base.get(&window.round).and_then(|base| base.get(&figure)).filter(|base| **base > 0.0);
            if let (Some(before), Some(now)) = (before, window.figures.get(&figure).copied()) {
                window.figures.insert(change, (now / before - 1.0) * 100.0);
            }
        }
    }
}

fn spreads(windows: &[Window], who: Contender) -> Spreads {
    let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
    for window in windows.iter().filter(|window| window.contender == who) {
        for (figure, value) in &window.figures {
            values.entry(*figure).or_default().push(*value);
        }
    }
    values.into_iter().filter_map(|(figure, values)| Some((figure, Spread::of(values)?))).collect()
}

impl Compared {
    fn told(&self) -> String {
        let is_there = |who: &Contender| *who != Contender::Nothing;
        let row = |who: Contender| Some((who.name(), self.figures.get(&who).filter(|all| !all.is_empty())?));
        let rows: Vec<_> = ROWS.into_iter().filter(is_there).filter_map(row).collect();
        let mut text = format!("\n  {}\n", self.load.told());
        for figures in [&Figure::COST[..], &Figure::KNOWLEDGE[..]] {
            text += &Table { figures, rows: rows.clone() }.to_string();
        }
        let base = self.figures.get(&Contender::Nothing);
        for (figure, _) in Figure::CHANGES {
            if let Some(spread) = base.and_then(|base| base.get(&figure)) {
                text += &format!("  beside nothing: {} {}\n", figure.head(), figure.told(spread));
            }
        }
        for (who, why) in &self.missing {
            text += &format!("  missing, {}: {why}\n", who.name());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Contender, Figure, Window, all_day, hold_against_nothing, spreads, turn};

    fn window(round: usize, contender: Contender, figures: &[(Figure, f64)]) -> Window {
        Window { round, contender, figures: figures.iter().copied().collect(), heard: None }
    }

    #[test]
    fn nobody_is_earlier_than_another_over_two_rounds() {
        let place =
            |who| (0..2).map(|round| turn(round).iter().position(|one| *one == who).unwrap()).sum::<usize>();
        assert!(Contender::RUN.into_iter().all(|who| place(who) == Contender::RUN.len() - 1));
    }

    #[test]
    fn a_change_is_held_against_nothing_in_the_same_round() {
        let mut windows = [
            window(0, Contender::Perf, &[(Figure::PutMs, 12.0)]),
            window(0, Contender::Nothing, &[(Figure::PutMs, 10.0)]),
            window(1, Contender::Perf, &[(Figure::PutMs, 12.0)]),
        ];
        hold_against_nothing(&mut windows);
        let change = spreads(&windows, Contender::Perf)[&Figure::PutChange];
        assert!(change.n == 1 && (change.median - 20.0).abs() < 1e-9, "{change:?}");
        assert!(!windows[1].figures.contains_key(&Figure::PutChange));
    }

    #[test]
    fn what_all_day_takes_is_the_difference_of_two_daemons() {
        let windows = [
            window(0, Contender::Daemon, &[(Figure::CpuWindow, 1.5), (Figure::Samples, 40.0)]),
            window(0, Contender::DaemonBlind, &[(Figure::CpuWindow, 1.0)]),
        ];
        let difference = all_day(&windows, 0).unwrap();
        assert_eq!(difference.figures.into_iter().collect::<Vec<_>>(), [(Figure::CpuWindow, 0.5)]);
        assert!(all_day(&windows, 1).is_none());
    }
}
