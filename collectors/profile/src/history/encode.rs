//! From a window to rows of numbers, and to whatever new entries of the dictionary they need.
//!
//! Owns the bounds on one window: heavy stacks go first, and what does not fit is counted. Refuses to keep anything
//! between two windows but the dictionary.

use model::profile::{Owner, StackSample, Stacks};

use super::Window;
use super::dictionary::{Dictionary, NONE, TEXT_BYTES_MAX};
use super::sample::{Row, Samples};
use crate::gopprof::DEPTH_MAX;

/// Different samples of one window. Two cores at 19 Hz give at most 380, 64 give 12,160 of which half are different.
const SAMPLES_MAX: usize = 8_192;
/// Bytes of dictionaries in use: with room to grow they take at most twice that, half of what the ring may.
pub(super) const DICTIONARY_BYTES_MAX: usize = 1 << 20;
/// Places whose number is remembered within a window, so that a frame is not hashed for each stack it is in.
const REMEMBERED_MAX: usize = 16_384;
/// What a node of a stack takes in the dictionary at most, index included.
const NODE_BYTES: usize = 24;
/// What a frame with its function and module, or an owner, takes besides its texts.
const ENTRY_BYTES: usize = 320;
/// What is not remembered yet.
const UNSET: u32 = u32::MAX;

/// One window on its way.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    dictionary: &'a mut Dictionary,
    stacks: &'a Stacks,
    frames: Vec<u32>,
    owners: Vec<u32>,
    cut_stacks: u64,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(dictionary: &'a mut Dictionary, stacks: &'a Stacks) -> Encoder<'a> {
        let frames = vec![UNSET; stacks.frames.len().min(REMEMBERED_MAX)];
        let owners = vec![UNSET; stacks.owners.len().min(REMEMBERED_MAX)];
        Encoder { dictionary, stacks, frames, owners, cut_stacks: 0 }
    }

    /// The rows, and how many stacks were cut.
    pub(super) fn encode(mut self, window: &Window) -> (Samples, u64) {
        let mut samples = Samples { period: self.stacks.period, lost: window.lost, ..Samples::default() };
        for sample in heaviest_first(&self.stacks.samples) {
            let has_room = samples.rows.len() < SAMPLES_MAX
                && self.dictionary.bytes() + self.cost(sample) <= DICTIONARY_BYTES_MAX;
            if has_room {
                samples.rows.push(self.row(sample));
            } else {
                let count = u64::try_from(sample.count).unwrap_or(0);
                samples.left_out = samples.left_out.saturating_add(count);
            }
        }
        (samples, self.cut_stacks)
    }

    /// What a sample may add to the dictionary at most.
    fn cost(&self, sample: &StackSample) -> usize {
        let frames = sample.frames.iter().take(DEPTH_MAX).map(|at| NODE_BYTES + self.frame_cost(*at));
        let owner =
            remembered(&self.owners, sample.owner).map_or_else(|| self.owner_cost(sample.owner), |_| 0);
        frames.sum::<usize>() + owner
    }

    fn frame_cost(&self, at: u32) -> usize {
        if remembered(&self.frames, at).is_some() {
            return 0;
        }
        let frame = usize::try_from(at).ok().and_then(|at| self.stacks.frames.get(at));
        let function =
            frame.and_then(|frame| self.stacks.functions.get(usize::try_from(frame.function).ok()?));
        let mapping = frame.and_then(|frame| self.stacks.mappings.get(usize::try_from(frame.mapping).ok()?));
        ENTRY_BYTES
            + function.map_or(0, |function| text_cost(&[&function.name, &function.file]))
            + mapping.map_or(0, |mapping| {
                text_cost(&[&mapping.path, &mapping.build_id, &mapping.go_build_id, &mapping.htlhash])
            })
    }

    fn owner_cost(&self, at: u32) -> usize {
        let owner = usize::try_from(at).ok().and_then(|at| self.stacks.owners.get(at));
        owner.map_or(0, |Owner { process, thread, container, pod, namespace, .. }| {
            ENTRY_BYTES + text_cost(&[process, thread, container, pod, namespace])
        })
    }

    fn row(&mut self, sample: &StackSample) -> Row {
        self.cut_stacks += u64::from(sample.frames.len() > DEPTH_MAX);
        let mut stack = 0;
        // From the root on; what is cut is the root's end, as everywhere.
        for at in sample.frames.iter().take(DEPTH_MAX).rev() {
            if let Some(frame) = self.frame(*at) {
                stack = self.dictionary.push(stack, frame);
            }
        }
        Row { owner: self.owner(sample.owner), stack, count: sample.count, value: sample.value }
    }

    fn frame(&mut self, at: u32) -> Option<u32> {
        if let Some(id) = remembered(&self.frames, at) {
            return Some(id);
        }
        let id = self.dictionary.frame(self.stacks, at)?;
        remember(&mut self.frames, at, id);
        Some(id)
    }

    fn owner(&mut self, at: u32) -> u32 {
        if let Some(id) = remembered(&self.owners, at) {
            return id;
        }
        let owner = usize::try_from(at).ok().and_then(|at| self.stacks.owners.get(at));
        let Some(owner) = owner else { return NONE };
        let id = self.dictionary.owner(owner);
        remember(&mut self.owners, at, id);
        id
    }
}

fn heaviest_first(samples: &[StackSample]) -> Vec<&StackSample> {
    let mut order: Vec<&StackSample> = samples.iter().collect();
    order.sort_by_key(|sample| std::cmp::Reverse(sample.count));
    order
}

fn text_cost(texts: &[&str]) -> usize {
    texts.iter().map(|text| text.len().min(TEXT_BYTES_MAX)).sum()
}

fn remembered(ids: &[u32], at: u32) -> Option<u32> {
    ids.get(usize::try_from(at).ok()?).copied().filter(|id| *id != UNSET)
}

fn remember(ids: &mut [u32], at: u32, id: u32) {
    if let Some(slot) = usize::try_from(at).ok().and_then(|at| ids.get_mut(at)) {
        *slot = id;
    }
}
