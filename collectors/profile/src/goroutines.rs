//! Goroutines of one process at two moments, by stack: how many there were, who came, who went, how long they have waited.
//!
//! Owns what "the same stack" is, in Go's counts (protobuf) as in Go's text, and joins them. Refuses to judge whether what grows
//! is a leak.

pub mod text;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::profile::Stacks;

use text::Group;

/// Functions by which stacks are told apart, innermost first: what differs only beyond is a recursion of another depth, and of
/// a deep stack Go's text shows the fifty innermost.
pub const DEPTH: usize = 32;

/// What is called by what, innermost first, at most [`DEPTH`] functions, without the runtime's own: the text leaves those out.
/// Of arguments of types only `[...]` is left, as in the text. Empty for stacks that are the runtime's as a whole.
pub type Path = Vec<Arc<str>>;

/// What one moment knows of the goroutines.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Go's counts by stack.
    pub counts: &'a Stacks,
    /// Go's text; `None` where it was not asked for.
    pub text: Option<&'a [Group]>,
}

/// All goroutines of one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The stack.
    pub path: Path,
    /// How many there were at the first moment; `None` where there is none.
    pub before: Option<u64>,
    /// How many there are at the last one.
    pub after: u64,
    /// What the text of the last moment says of them.
    pub waits: Option<Waits>,
    /// Who came and who went, where both moments have a text.
    pub turnover: Option<Turnover>,
}

/// What goroutines of one stack wait for, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// What most of them wait for, in Go's words.
    pub reason: String,
    /// How many waited for a minute or more.
    pub long: u64,
    /// Median of all, whole minutes.
    pub median_minutes: u64,
    /// Longest, whole minutes.
    pub longest_minutes: u64,
    /// Of how many Go's own search for leaks has said that nobody can ever wake them.
    pub leaked: u64,
    /// The function that started the first of them, where Go says so.
    pub creator: Option<Arc<str>>,
}

/// Who is there now and was not, and the other way round, by the numbers of goroutines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// At this stack now, and not before.
    pub came: u64,
    /// At this stack before, and not now: ended, or elsewhere.
    pub went: u64,
}

/// Joins two moments of one process by stack; most goroutines first, then by name.
#[must_use]
pub fn join(first: Option<Moment<'_>>, last: Moment<'_>) -> Vec<Row> {
    let before = first.map(|moment| counts(moment.counts));
    let mut rows: BTreeMap<Path, Row> = BTreeMap::new();
    let row = |path: &Path, before: Option<u64>, after: u64| Row {
        path: path.clone(),
        before,
        after,
        waits: None,
        turnover: None,
    };
    for (path, n) in before.iter().flatten() {
        rows.insert(path.clone(), row(path, Some(*n), 0));
    }
    for (path, n) in counts(last.counts) {
        let none = before.is_some().then_some(0);
        rows.entry(path).or_insert_with_key(|path| row(path, none, 0)).after = n;
    }
    let ids_before = first.and_then(|moment| moment.text).map(ids);
    if let Some(groups) = last.text {
        let mut merged = merge(groups);
        for (path, row) in &mut rows {
            let now = merged.remove(path);
            row.turnover = ids_before.as_ref().map(|before| turnover(before.get(path), now.as_ref()));
            row.waits = now.as_ref().map(waits);
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by(|one, other| (other.after, &one.path).cmp(&(one.after, &other.path)));
    rows
}

fn counts(stacks: &Stacks) -> BTreeMap<Path, u64> {
    let names: Vec<Option<Arc<str>>> =
        stacks.functions.iter().map(|function| shown(&function.name)).collect();
    let mut counts = BTreeMap::new();
    for sample in &stacks.samples {
        let name = |frame: &u32| {
            let frame = stacks.frames.get(usize::try_from(*frame).ok()?)?;
            names.get(usize::try_from(frame.function).ok()?)?.clone()
        };
        let path: Path = sample.frames.iter().filter_map(name).take(DEPTH).collect();
        let n = u64::try_from(sample.value).unwrap_or(0);
        let sum: &mut u64 = counts.entry(path).or_default();
        *sum = sum.saturating_add(n);
    }
    counts
}

/// The path of a stack of the text.
#[must_use]
pub fn path(stack: &[Arc<str>]) -> Path {
    let plain = |name: &Arc<str>| {
        if name.contains('[') { shown(name) } else { is_shown(name).then(|| Arc::clone(name)) }
    };
    stack.iter().filter_map(plain).take(DEPTH).collect()
}

/// Groups whose stacks differ only in what a path leaves out are one.
fn merge(groups: &[Group]) -> BTreeMap<Path, Group> {
    let mut merged: BTreeMap<Path, Group> = BTreeMap::new();
    for group in groups {
        match merged.entry(path(&group.stack)) {
            Entry::Vacant(place) => {
                place.insert(group.clone());
            }
            Entry::Occupied(mut same) => {
                same.get_mut().goroutines.extend_from_slice(&group.goroutines);
            }
        }
    }
    merged
}

fn ids(groups: &[Group]) -> BTreeMap<Path, HashSet<u64>> {
    let mut ids: BTreeMap<Path, HashSet<u64>> = BTreeMap::new();
    for group in groups {
        ids.entry(path(&group.stack))
            .or_default()
            .extend(group.goroutines.iter().map(|goroutine| goroutine.id));
    }
    ids
}

fn turnover(before: Option<&HashSet<u64>>, now: Option<&Group>) -> Turnover {
    let now: HashSet<u64> =
        now.iter().flat_map(|group| group.goroutines.iter().map(|goroutine| goroutine.id)).collect();
    let stayed = before.map_or(0, |before| before.intersection(&now).count());
    let count = |n: usize| u64::try_from(n.saturating_sub(stayed)).unwrap_or(u64::MAX);
    Turnover { came: count(now.len()), went: count(before.map_or(0, HashSet::len)) }
}

fn waits(group: &Group) -> Waits {
    let (longest_minutes, median_minutes) = group.minutes();
    let count = |is: fn(&text::Goroutine) -> bool| {
        u64::try_from(group.goroutines.iter().filter(|goroutine| is(goroutine)).count()).unwrap_or(u64::MAX)
    };
    Waits {
        reason: group.reason().to_owned(),
        long: count(|goroutine| goroutine.minutes > 0),
        median_minutes,
        longest_minutes,
        leaked: count(|goroutine| goroutine.is_leaked),
        creator: group.creator.clone(),
    }
}

/// A function as the text has it, where it has it: not the runtime's own (`panic` is `runtime.gopanic` there), and of the
/// arguments of types, from the first bracket to the last, three dots.
fn shown(name: &str) -> Option<Arc<str>> {
    if !is_shown(name) {
        return None;
    }
    let (open, close) = (name.find('['), name.rfind(']'));
    Some(match open.zip(close).filter(|(open, close)| open < close) {
        Some((open, close)) => {
            let (before, after) =
                (name.get(..open).unwrap_or(name), name.get(close + 1..).unwrap_or_default());
            Arc::from(format!("{before}[...]{after}"))
        }
        None => Arc::from(name),
    })
}

fn is_shown(name: &str) -> bool {
    name != "panic" && !name.starts_with("runtime.")
}

#[cfg(test)]
mod tests;
