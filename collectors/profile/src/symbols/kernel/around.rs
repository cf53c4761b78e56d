//! Of a long list of functions those that addresses are in, without a table of all of them.
//!
//! Owns the proof that the names are the same as by the whole list: of the functions between two neighbouring addresses the
//! last one is what the second may be in, and the first one is what may end it before the first of them ends.

use super::list::Line;

/// A function at the edge of a gap.
#[derive(Debug, Default)]
struct Edge {
    start: u64,
    rank: u8,
    /// What the list has behind the address. Kept when the edge moves: that allocates nothing then.
    name: Vec<u8>,
    module: Vec<u8>,
}

impl Edge {
    fn put(&mut self, line: &Line<'_>) {
        (self.start, self.rank) = (line.address, line.rank());
        self.name.clear();
        self.name.extend_from_slice(line.name);
        self.module.clear();
        self.module.extend_from_slice(line.module);
    }

    /// Whether it is at the same place and called better.
    fn is_bettered(&self, line: &Line<'_>) -> bool {
        line.address == self.start && line.rank() < self.rank
    }
}

/// What begins behind one address, and not behind the next.
#[derive(Debug, Default)]
struct Gap {
    edges: Option<(Edge, Edge)>,
}

impl Gap {
    fn take(&mut self, line: &Line<'_>) {
        let Some((first, last)) = &mut self.edges else {
            let (mut first, mut last) = (Edge::default(), Edge::default());
            first.put(line);
            last.put(line);
            self.edges = Some((first, last));
            return;
        };
        if line.address < first.start || first.is_bettered(line) {
            first.put(line);
        }
        if line.address > last.start || last.is_bettered(line) {
            last.put(line);
        }
    }
}

/// The functions around some addresses.
#[derive(Debug)]
pub(super) struct Around<'a> {
    /// In order, each once.
    addresses: &'a [u64],
    gaps: Vec<Gap>,
    /// The gap of the line before: most lines are in the same one.
    at: usize,
}

impl<'a> Around<'a> {
    pub(super) fn new(addresses: &'a [u64]) -> Around<'a> {
        let gaps = std::iter::repeat_with(Gap::default).take(addresses.len() + 1).collect();
        Around { addresses, gaps, at: 0 }
    }

    /// A function of the list.
    pub(super) fn take(&mut self, line: &Line<'_>) {
        let is_behind = |at: Option<usize>| {
            at.and_then(|at| self.addresses.get(at)).is_none_or(|address| line.address > *address)
        };
        let is_here = is_behind(self.at.checked_sub(1))
            && self.addresses.get(self.at).is_none_or(|address| line.address <= *address);
        if !is_here {
            self.at = self.addresses.partition_point(|address| *address < line.address);
        }
        if let Some(gap) = self.gaps.get_mut(self.at) {
            gap.take(line);
        }
    }

    /// What was kept: start, rank, name and module, in the order of starts.
    pub(super) fn kept(&self) -> impl Iterator<Item = (u64, u8, &[u8], &[u8])> {
        let edges = self.gaps.iter().flat_map(|gap| &gap.edges).flat_map(|(first, last)| [first, last]);
        edges.map(|edge| (edge.start, edge.rank, &*edge.name, &*edge.module))
    }
}
