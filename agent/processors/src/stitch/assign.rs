//! Who belongs to whom when several fit: the one-to-one assignment with the most pairs, then the least cost. Owns the bounds
//! on its work; deterministic, because it sees positions only.

/// Larger than any sum of real costs; a pair that does not fit.
const UNFIT: i64 = 1 << 50;
/// Costs above this are as good as this: a day in nanoseconds.
const COST_MAX: u64 = 86_400_000_000_000;
/// Pairs that are weighed in one call: 256 calls in flight against as many requests.
const PAIRS_MAX: usize = 65_536;
/// Groups up to this many rows and columns are solved exactly (64³ steps); larger ones by cheapest pair first.
const EXACT_MAX: usize = 64;

/// One pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The column.
    pub col: usize,
    /// What it costs.
    pub cost: u64,
    /// How many rows or columns competed for it, itself included.
    pub rivals: usize,
    /// By how much the next best pair of its row or column is dearer; `None` where there is none.
    pub margin: Option<u64>,
}

/// The pair of each row. `cost` is `None` where the two do not fit.
#[must_use]
pub(super) fn assign(
    rows: usize,
    cols: usize,
    cost: impl Fn(usize, usize) -> Option<u64>,
) -> Vec<Option<Pair>> {
    let mut edges = Vec::new();
    for row in 0..rows {
        for col in 0..cols {
            if let Some(cost) = cost(row, col).filter(|_| edges.len() < PAIRS_MAX) {
                edges.push((row, col, cost.min(COST_MAX)));
            }
        }
    }
    let mut chosen = vec![None; rows];
    for group in groups(&edges, rows, cols) {
        for (row, col) in solve(&group) {
            if let Some(place) = chosen.get_mut(row) {
                *place = judge(&group, row, col);
            }
        }
    }
    chosen
}

type Edge = (usize, usize, u64);

/// Edges that compete with each other, directly or through others.
fn groups(edges: &[Edge], rows: usize, cols: usize) -> Vec<Vec<Edge>> {
    let mut parent: Vec<usize> = (0..rows + cols).collect();
    for &(row, col, _) in edges {
        let (a, b) = (find(&mut parent, row), find(&mut parent, rows + col));
        if let Some(place) = parent.get_mut(a.max(b)) {
            *place = a.min(b);
        }
    }
    let mut groups = std::collections::BTreeMap::<usize, Vec<Edge>>::new();
    for &edge in edges {
        groups.entry(find(&mut parent, edge.0)).or_default().push(edge);
    }
    groups.into_values().collect()
}

fn find(parent: &mut [usize], mut node: usize) -> usize {
    while let Some(&up) = parent.get(node) {
        if up == node {
            break;
        }
        let above = parent.get(up).copied().unwrap_or(up);
        if let Some(place) = parent.get_mut(node) {
            *place = above; // halve the path
        }
        node = above;
    }
    node
}

fn solve(group: &[Edge]) -> Vec<(usize, usize)> {
    let names = |pick: fn(&Edge) -> usize| {
        let mut names: Vec<usize> = group.iter().map(pick).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let (rows, cols) = (names(|edge| edge.0), names(|edge| edge.1));
    if rows.len() > EXACT_MAX || cols.len() > EXACT_MAX {
        return cheapest_first(group);
    }
    let flip = rows.len() > cols.len();
    let (small, large) = if flip { (&cols, &rows) } else { (&rows, &cols) };
    let mut costs = vec![vec![UNFIT; large.len()]; small.len()];
    for &(row, col, cost) in group {
        let (a, b) = if flip { (col, row) } else { (row, col) };
        let place = small.binary_search(&a).ok().zip(large.binary_search(&b).ok());
        if let Some(place) = place.and_then(|(i, j)| costs.get_mut(i)?.get_mut(j)) {
            *place = i64::try_from(cost).unwrap_or(UNFIT);
        }
    }
    let named = |(i, j): (usize, usize)| {
        let fits = costs.get(i)?.get(j)? < &UNFIT;
        let (a, b) = (*small.get(i)?, *large.get(j)?);
        fits.then_some(if flip { (b, a) } else { (a, b) })
    };
    hungarian(&costs, large.len()).into_iter().filter_map(named).collect()
}

fn cheapest_first(group: &[Edge]) -> Vec<(usize, usize)> {
    let mut edges = group.to_vec();
    edges.sort_unstable_by_key(|&(row, col, cost)| (cost, row, col));
    let (mut rows, mut cols) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    edges.retain(|(row, col, _)| {
        let free = !rows.contains(row) && !cols.contains(col);
        if free {
            rows.insert(*row);
            cols.insert(*col);
        }
        free
    });
    edges.into_iter().map(|(row, col, _)| (row, col)).collect()
}

/// Kuhn's method with potentials, for at most as many rows as columns; position 0 is a sentinel.
#[expect(
    clippy::indexing_slicing,
    reason = "positions 0..=rows and 0..=cols of vectors made here with that length"
)]
fn hungarian(costs: &[Vec<i64>], cols: usize) -> Vec<(usize, usize)> {
    let rows = costs.len();
    let (mut row_price, mut col_price) = (vec![0_i64; rows + 1], vec![0_i64; cols + 1]);
    let (mut owner, mut way) = (vec![0_usize; cols + 1], vec![0_usize; cols + 1]);
    for row in 1..=rows {
        owner[0] = row;
        let mut at = 0;
        let mut least = vec![i64::MAX; cols + 1];
        let mut used = vec![false; cols + 1];
        loop {
            used[at] = true;
            let (mut delta, mut next) = (i64::MAX, 0);
            for col in 1..=cols {
                if used[col] {
                    continue;
                }
                let reduced = costs[owner[at] - 1][col - 1] - row_price[owner[at]] - col_price[col];
                if reduced < least[col] {
                    least[col] = reduced;
                    way[col] = at;
                }
                if least[col] < delta {
                    delta = least[col];
                    next = col;
                }
            }
            for col in 0..=cols {
                if used[col] {
                    row_price[owner[col]] += delta;
                    col_price[col] -= delta;
                } else {
                    least[col] = least[col].saturating_sub(delta);
                }
            }
            at = next;
            if owner[at] == 0 {
                break;
            }
        }
        while at != 0 {
            owner[at] = owner[way[at]];
            at = way[at];
        }
    }
    (1..=cols).filter(|&col| owner[col] != 0).map(|col| (owner[col] - 1, col - 1)).collect()
}

fn judge(group: &[Edge], row: usize, col: usize) -> Option<Pair> {
    let cost = group.iter().find(|edge| (edge.0, edge.1) == (row, col))?.2;
    let of_row = group.iter().filter(|edge| edge.0 == row).count();
    let of_col = group.iter().filter(|edge| edge.1 == col).count();
    let others = group.iter().filter(|edge| (edge.0 == row) != (edge.1 == col));
    let margin = others.map(|edge| edge.2.saturating_sub(cost)).min();
    Some(Pair { col, cost, rivals: of_row.max(of_col), margin })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(costs: &[&[Option<u64>]], expected: &[Option<usize>]) {
        let cols = costs.first().map_or(0, |row| row.len());
        let found: Vec<Option<usize>> = assign(costs.len(), cols, |row, col| costs[row][col])
            .iter()
            .map(|pair| pair.map(|pair| pair.col))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_whole_is_cheapest_not_each_by_itself() {
        check(&[&[Some(1), Some(2)], &[Some(2), Some(9)]], &[Some(1), Some(0)]);
        check(&[&[Some(1), Some(2)], &[None, Some(9)]], &[Some(0), Some(1)]);
    }

    #[test]
    fn more_pairs_are_better_than_cheap_ones() {
        check(&[&[Some(0), Some(100)], &[Some(0), None]], &[Some(1), Some(0)]);
        check(&[&[Some(5)], &[Some(3)], &[None]], &[None, Some(0), None]);
        check(&[], &[]);
    }

    #[test]
    fn competition_is_told() {
        let pairs = assign(2, 2, |row, col| Some(if row == col { 1 } else { 10 }));
        assert_eq!(pairs[0], Some(Pair { col: 0, cost: 1, rivals: 2, margin: Some(9) }));
        let alone = assign(1, 1, |_, _| Some(4));
        assert_eq!(alone[0], Some(Pair { col: 0, cost: 4, rivals: 1, margin: None }));
    }

    #[test]
    fn a_crowd_is_still_assigned() {
        let pairs = assign(100, 100, |row, col| Some(row.abs_diff(col).try_into().unwrap()));
        assert!(pairs.iter().enumerate().all(|(row, pair)| pair.unwrap().col == row));
    }
}
