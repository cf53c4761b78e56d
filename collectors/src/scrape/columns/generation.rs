//! From one generation to the next: the slow path, taken when the set of series has changed.

use std::collections::HashMap;
use std::sync::Arc;

use model::scrape::{ABSENT_BITS, Layout, MetricKind, PointShape};

use super::super::exposition::{self, Line, Reject, key};
use super::super::layout::{Builder, index};
use super::items::{Items, Slot};
use super::{Columns, FAILURES_MAX, Memory, SERIES_PER_PAGE_OF_REST};

impl Columns {
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
        let layout = builder.finish(self.layout.generation + 1 + u64::from(self.was_quiet()));
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

    /// While the target was down its layout took a number of its own.
    fn was_quiet(&self) -> bool {
        self.failures >= FAILURES_MAX && !self.memory.is_empty()
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
