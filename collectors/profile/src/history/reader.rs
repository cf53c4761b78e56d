//! A ring as anybody may read it, while it is written or after.
//!
//! Owns the list of windows and the order they are in: that of the writer, whatever the wall clock did. Takes no lock;
//! what is removed or half written meanwhile is counted. Refuses a ring of which it knows no version.

use std::io;
use std::path::{Path, PathBuf};

use model::time::Stamp;

use super::Boot;
use super::block::{Block, NotASegment};
use super::directory;
use super::file::{self, Index, Source};
use super::merge::Merge;
use super::sample::Samples;
use super::selection::{Filter, Gap, GapKind, Loss, Range, Selection};
use super::tables::Tables;
use super::writer::Unwritten;

/// Windows of one segment that have numbers; the writer ends a segment long before.
const WINDOWS_BITS: u32 = 16;
/// What is between two windows of one run, beyond this, is a gap: a quarter of a window of ten seconds.
const JITTER_NS: u64 = 2_500_000_000;

/// Why a ring cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory could not be listed.
    #[error("read the profile history in {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// All of it was written by another version.
    #[error(
        "the profile history in {path} has format {version}, this agent reads {}: use the agent that wrote it",
        super::VERSION
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// The version of the newest segment.
        version: u16,
    },
}

/// One window of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its place: later windows have higher numbers, in all runs and boots.
    pub sequence: u64,
    /// When it began.
    pub at: Stamp,
    /// Nanoseconds.
    pub duration_ns: u64,
    /// The boot it was in.
    pub boot: Boot,
    /// The run of the writer.
    pub life: u64,
}

impl Placed {
    /// When it ended.
    #[must_use]
    pub fn end(&self) -> Stamp {
        self.at.plus_ns(self.duration_ns)
    }
}

/// One segment.
#[derive(Debug)]
struct Segment {
    /// Of the name; after all others when it has none yet.
    id: u64,
    index: Index,
    tail: Option<(u64, Vec<u8>)>,
    is_named: bool,
}

/// The list of all windows, and the way to their samples.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    segments: Vec<Segment>,
    windows: Vec<Placed>,
    loss: Loss,
}

impl Reader {
    /// Lists what is in the directory; nothing, when there is none.
    ///
    /// # Errors
    /// The directory cannot be listed, or all in it is of another version.
    pub fn open(path: &Path) -> Result<Reader, ReadError> {
        Reader::open_with(path, Vec::new())
    }

    /// The same for the process that writes: with what it holds in memory.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_with(path: &Path, unwritten: Vec<Unwritten>) -> Result<Reader, ReadError> {
        let ids = match directory::list(path) {
            Ok(ids) => ids,
            // A disk that refuses everything must not hide what is in memory.
            Err(error) if error.kind() == io::ErrorKind::NotFound || !unwritten.is_empty() => None,
            Err(source) => return Err(ReadError::Io { path: path.to_owned(), source }),
        };
        let mut reader = Reader {
            path: path.to_owned(),
            segments: Vec::new(),
            windows: Vec::new(),
            loss: Loss::default(),
        };
        let (named, nameless): (Vec<Unwritten>, Vec<Unwritten>) =
            unwritten.into_iter().partition(|segment| segment.id.is_some());
        let mut version = None;
        for id in ids.into_iter().flatten() {
            let tail = named.iter().find(|segment| segment.id == Some(id));
            let tail = tail.map(|segment| (segment.at, segment.bytes.clone()));
            version = reader.add_file(id, tail).or(version);
        }
        for (id, segment) in (u64::from(u32::MAX) + 1..).zip(nameless) {
            let index = Source::memory(segment.bytes.clone()).index();
            reader.add(id, index, Some((0, segment.bytes)), false);
        }
        match version {
            Some(version) if reader.segments.is_empty() => {
                Err(ReadError::Version { path: path.to_owned(), version })
            }
            _ => Ok(reader),
        }
    }

    fn add_file(&mut self, id: u32, tail: Option<(u64, Vec<u8>)>) -> Option<u16> {
        match Source::open(&self.path.join(file::name(id)), tail.clone()) {
            Ok(source) if source.is_empty() => None,
            Ok(source) => self.add(id.into(), source.index(), tail, true),
            // Removed since it was listed: older than the ring goes back.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => {
                self.loss.unreadable_segments += 1;
                None
            }
        }
    }

    /// The version, when it is another.
    fn add(
        &mut self,
        id: u64,
        index: Result<Index, NotASegment>,
        tail: Option<(u64, Vec<u8>)>,
        is_named: bool,
    ) -> Option<u16> {
        let index = match index {
            Ok(index) => index,
            Err(NotASegment::Damaged) => {
                self.loss.unreadable_segments += 1;
                return None;
            }
            Err(NotASegment::Version(version)) => {
                self.loss.other_versions += 1;
                return Some(version);
            }
        };
        self.loss.torn_bytes += index.torn;
        let listed = index.blocks.iter().flat_map(|(_, block)| &block.windows);
        for (place, window) in (0..1_u64 << WINDOWS_BITS).zip(listed) {
            self.windows.push(Placed {
                sequence: id << WINDOWS_BITS | place,
                at: window.at,
                duration_ns: window.duration_ns,
                boot: index.header.boot,
                life: index.header.life,
            });
        }
        self.segments.push(Segment { id, index, tail, is_named });
        None
    }

    /// All windows in the order they were written.
    #[must_use]
    pub fn windows(&self) -> &[Placed] {
        &self.windows
    }

    /// What could not be listed.
    #[must_use]
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// Where windows are missing between the first and the last.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        gaps(&self.windows)
    }

    /// The newest windows, back to `ns` before the end of the newest; `None` when there are none.
    #[must_use]
    pub fn last(&self, ns: u64) -> Option<Range> {
        self.until(self.windows.last()?, ns)
    }

    /// Windows back to `ns` before the end of one, itself included, and never more than fill that time: across a reboot a
    /// clock that was wrong makes anything look near.
    pub(super) fn until(&self, last: &Placed, ns: u64) -> Option<Range> {
        let end = (last.boot, last.end());
        let mut covered = 0_u64;
        let earlier = self.windows.iter().rev().skip_while(|window| window.sequence > last.sequence);
        let near = earlier.take_while(|window| {
            covered = covered.saturating_add(window.duration_ns);
            covered <= ns && directory::age_ns((window.boot, window.at), end) <= ns
        });
        let first = near.last().unwrap_or(last);
        Some(Range::Windows { first: first.sequence, last: last.sequence })
    }

    /// Reads the windows of a range and adds them up.
    #[must_use]
    pub fn select(&self, range: Range, filter: &Filter) -> Selection {
        let wanted: Vec<Placed> =
            self.windows.iter().filter(|window| range.contains(window)).copied().collect();
        let mut merge = Merge::new(filter);
        let mut loss = Loss { lost_windows: 0, ..self.loss };
        for segment in &self.segments {
            let first = segment.id << WINDOWS_BITS;
            let own = wanted.iter().filter(|window| window.sequence >> WINDOWS_BITS == segment.id);
            let own: Vec<(usize, Placed)> = own
                .filter_map(|window| Some((usize::try_from(window.sequence - first).ok()?, *window)))
                .collect();
            if !own.is_empty() {
                let read = self.read(segment, &own, &mut merge);
                loss.lost_windows += u64::try_from(own.len() - read).unwrap_or(0);
            }
        }
        merge.finish(gaps(&wanted), loss)
    }

    /// Reads these windows of one segment, by their place in it; how many it was.
    fn read(&self, segment: &Segment, own: &[(usize, Placed)], merge: &mut Merge<'_>) -> usize {
        let name = || u32::try_from(segment.id).map(file::name).unwrap_or_default();
        let source = match (&segment.tail, segment.is_named) {
            (Some((_, bytes)), false) => Source::memory(bytes.clone()),
            (tail, _) => match Source::open(&self.path.join(name()), tail.clone()) {
                Ok(source) => source,
                Err(_) => return 0,
            },
        };
        let last = own.last().map_or(0, |(place, _)| *place);
        let (mut tables, mut read) = (Tables::default(), 0);
        merge.segment();
        for (at, block) in &segment.index.blocks {
            let first = usize::try_from(block.first).unwrap_or(usize::MAX);
            if first > last {
                break;
            }
            let Some(dictionary) = source.dictionary(*at, block) else { break };
            if tables.read(&dictionary).is_none() {
                break;
            }
            let inside = own.iter().filter(|(place, _)| {
                place.checked_sub(first).is_some_and(|place| place < block.windows.len())
            });
            let inside: Vec<(usize, Placed)> =
                inside.map(|(place, window)| (*place - first, *window)).collect();
            if inside.is_empty() {
                continue;
            }
            let Some(plain) = source.samples(*at, block) else { break };
            for (place, window) in inside {
                if let Some(samples) = samples(&plain, block, place, &tables)
                    && merge.add(&tables, window, &samples)
                {
                    read += 1;
                }
            }
        }
        read
    }
}

/// The samples of one window of a block.
fn samples(plain: &[u8], block: &Block, place: usize, tables: &Tables) -> Option<Samples> {
    let offset = |window: &super::block::Listed| usize::try_from(window.offset).ok();
    let begin = offset(block.windows.get(place)?)?;
    let end = block.windows.get(place + 1).map_or(Some(plain.len()), offset)?;
    Samples::read(plain.get(begin..end)?, tables.owners.len(), tables.stacks())
}

/// Where windows are missing between others.
fn gaps(windows: &[Placed]) -> Vec<Gap> {
    let pairs = windows.windows(2).filter_map(|pair| if let [a, b] = pair { Some((a, b)) } else { None });
    let gap = |(before, after): (&Placed, &Placed)| {
        let end = before.end();
        let (kind, ns) = if before.boot != after.boot {
            // Of the time in between only the wall knows, and it may have been set.
            (GapKind::Reboot, after.at.wall_ns.saturating_sub(end.wall_ns))
        } else if before.life != after.life {
            (GapKind::Restart, after.at.since_ns(end))
        } else {
            (GapKind::Pause, after.at.since_ns(end))
        };
        let is_one = kind != GapKind::Pause || ns > JITTER_NS;
        is_one.then_some(Gap { after: before.sequence, kind, ns })
    };
    pairs.filter_map(gap).collect()
}
