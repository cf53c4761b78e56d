//! The first generation, and from one to the next: the slow path, taken when the set of series has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::scrape::{ABSENT_BITS, Layout, MetricKind, PointShape};

use super::super::exposition::{self, Line, Reject, key};
use super::super::layout::{Builder, index};
use super::items::{Items, Slot};
use super::{Columns, Memory, SERIES_PER_PAGE_OF_REST};

/// Numbers of layouts, each given once. Clones draw from the same numbers: whoever keeps something by (target, generation)
/// must never meet another shape under a number it knows.
#[derive(Clone, Debug, Default)]
pub struct Generations {
    last: Arc<AtomicU64>,
}

impl Generations {
    /// A number that was not given before.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Gives numbers above `floor` from here on.
    pub fn rise_above(&self, floor: u64) {
        self.last.fetch_max(floor, Ordering::Relaxed);
    }
}

impl Columns {
    /// For pages of at most `series_max` series; those beyond are counted, in page order. Layouts are numbered from 1.
    #[must_use]
    pub fn new(series_max: usize) -> Columns {
        Columns::numbered(series_max, Generations::default())
    }

    /// The same with numbers that others draw from too.
    #[must_use]
    pub fn numbered(series_max: usize, generations: Generations) -> Columns {
        let layout = Builder::default().finish(generations.draw());
        let mut columns = Columns {
            series_max,
            generations,
            layout: Arc::default(),
            items: Items::default(),
            memory: Vec::new(),
            values: Vec::new(),
            counters: Vec::new(),
            start: None,
            start_s: None,
            trimmed: false,
            worn: false,
            rest: 0,
            failures: 0,
            quiet: None,
        };
        columns.adopt(layout, Items::default(), Vec::new());
        columns
    }

    /// Builds the next generation from a page, and carries over what was on the last one, so that it can end.
    pub(super) fn rebuild(&mut self, page: &[u8]) {
        let mut builder = Builder::default();
        for (_, line) in exposition::parse(page) {
            match line {
                // Who is refused here is refused again, and counted, below.
                Ok(Line::Type { name, kind }) => {
                    let _known = key::family(name).and_then(|name| builder.kind(name, kind)).is_ok();
                }
                Ok(Line::Help { name, text }) => {
                    if let (Ok(name), Ok(text)) = (key::family(name), key::help(text)) {
                        builder.help(name, text);
                    }
                }
                _ => {}
            }
        }
        for family in &self.layout.families {
            if family.kind != MetricKind::Unknown {
                let _known = builder.kind(family.name.clone(), family.kind).is_ok();
            }
            builder.help(family.name.clone(), family.help.clone());
        }
        let mut items = Items::default();
        let mut memory = Vec::new();
        self.trimmed = self.add_page(page, &mut builder, &mut items, &mut memory);
        self.carry(&mut builder, &mut items, &mut memory);
        let layout = builder.finish(self.generations.draw());
        self.adopt(layout, items, memory);
    }

    /// Adds all lines of a page in their order; says whether there were too many.
    fn add_page(
        &self,
        page: &[u8],
        builder: &mut Builder,
        items: &mut Items,
        memory: &mut Vec<Memory>,
    ) -> bool {
        let mut kinds = HashMap::new();
        // Comments and refused keys are remembered too, within the same limit.
        let items_max = self.series_max.saturating_mul(2);
        for (raw, line) in exposition::parse(page) {
            let key = match &line {
                Ok(Line::Help { .. } | Line::Type { .. }) => raw,
                Ok(Line::Sample(sample)) => sample.key,
                Ok(Line::Blank) | Err(_) => continue,
            };
            if items.find(key).is_some() {
                continue;
            }
            let sample = matches!(line, Ok(Line::Sample(_)));
            if items.items.len() >= items_max || (sample && index(builder.len()) >= self.series_max) {
                return true;
            }
            let slot = match line {
                Ok(Line::Sample(_)) => match key::split(key).and_then(|parts| builder.series(parts)) {
                    Ok(id) => {
                        memory.push(self.remembered(key));
                        Slot::Series(id)
                    }
                    Err(reject) => Slot::Rejected(reject),
                },
                Ok(Line::Type { name, kind }) if *kinds.entry(name).or_insert(kind) != kind => {
                    Slot::Rejected(Reject::TypeConflict)
                }
                _ => Slot::Comment,
            };
            items.push(key, slot);
        }
        false
    }

    /// Adds the series that were on the last page and are not on this one.
    fn carry(&self, builder: &mut Builder, items: &mut Items, memory: &mut Vec<Memory>) {
        for item in &self.items.items {
            let Slot::Series(id) = item.slot else { continue };
            let Some(old) = self.memory.get(index(id)).filter(|old| old.before) else { continue };
            let key = self.items.key(item);
            if items.find(key).is_some() {
                continue;
            }
            if let Ok(id) = key::split(key).and_then(|parts| builder.series(parts)) {
                memory.push(*old);
                items.push(key, Slot::Series(id));
            }
        }
    }

    fn remembered(&self, key: &[u8]) -> Memory {
        let new = Memory { before: false, here: false, last: f64::NAN };
        match self.items.find(key) {
            Some((_, Slot::Series(id))) => self.memory.get(index(id)).copied().unwrap_or(new),
            _ => new,
        }
    }

    pub(super) fn adopt(&mut self, layout: Layout, items: Items, memory: Vec<Memory>) {
        self.values.clear();
        self.values.resize(index(layout.series), f64::from_bits(ABSENT_BITS));
        self.counters = counters(&layout);
        self.start = layout.find("process_start_time_seconds", &[]).and_then(|point| match point.shape {
            PointShape::Value { series } if point.labels.is_empty() => Some(series),
            _ => None,
        });
        self.layout = Arc::new(layout);
        self.items = items;
        self.memory = memory;
        self.worn = false;
        self.rest = self.memory.len() / SERIES_PER_PAGE_OF_REST;
    }
}

/// Series that never fall while a process lives: counters, buckets and counts. Sums may fall by negative observations.
fn counters(layout: &Layout) -> Vec<u32> {
    let mut counters = Vec::new();
    for point in &layout.points {
        match &point.shape {
            PointShape::Value { series } => {
                let family = layout.families.get(index(point.family));
                if family.is_some_and(|family| family.kind == MetricKind::Counter) {
                    counters.push(*series);
                }
            }
            PointShape::Histogram { buckets, count, .. } => {
                counters.extend(buckets.iter().map(|(_, series)| *series).chain(*count));
            }
            PointShape::Summary { count, .. } => counters.extend(*count),
        }
    }
    counters
}
