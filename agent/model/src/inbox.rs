//! The way to the engine: bounded in records and in bytes. A source reserves its place before it works.

use std::sync::Arc;

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::record::Record;

/// A record and the room it takes until the engine has applied it.
#[derive(Debug)]
pub struct Envelope {
    /// The record.
    pub record: Record,
    _room: OwnedSemaphorePermit,
}

/// The sending side; clones share the bounds.
#[derive(Clone, Debug)]
pub struct Inbox {
    tx: mpsc::Sender<Envelope>,
    room: Arc<Semaphore>,
    room_kib: u32,
}

/// A reserved place: sending cannot fail any more.
#[derive(Debug)]
pub struct Place {
    permit: OwnedPermit<Envelope>,
    room: OwnedSemaphorePermit,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// Full: skip this round and count it.
    Full,
    /// The engine has gone: stop.
    Closed,
}

impl Inbox {
    /// An inbox for at most `records` records and `kib` KiB.
    #[must_use]
    pub fn new(records: usize, kib: u32) -> (Inbox, mpsc::Receiver<Envelope>) {
        let (tx, rx) = mpsc::channel(records);
        let room = Arc::new(Semaphore::new(usize::try_from(kib).unwrap_or(usize::MAX)));
        (Inbox { tx, room, room_kib: kib }, rx)
    }

    /// A place for a record of about `bytes` bytes, now or not at all: for sources whose next tick makes up for this one.
    ///
    /// # Errors
    /// [`NoPlace::Full`] or [`NoPlace::Closed`].
    pub fn reserve(&self, bytes: usize) -> Result<Place, NoPlace> {
        let permit = self.tx.clone().try_reserve_owned().map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoPlace::Full,
            mpsc::error::TrySendError::Closed(_) => NoPlace::Closed,
        })?;
        let room =
            Arc::clone(&self.room).try_acquire_many_owned(self.kib(bytes)).map_err(|_| NoPlace::Full)?;
        Ok(Place { permit, room })
    }

    /// A place for a record of about `bytes` bytes, however long it takes: for sources that keep what they wait with (a log file, a result).
    ///
    /// # Errors
    /// [`NoPlace::Closed`] only.
    pub async fn wait(&self, bytes: usize) -> Result<Place, NoPlace> {
        let room =
            Arc::clone(&self.room).acquire_many_owned(self.kib(bytes)).await.map_err(|_| NoPlace::Closed)?;
        let permit = self.tx.clone().reserve_owned().await.map_err(|_| NoPlace::Closed)?;
        Ok(Place { permit, room })
    }

    /// A handle that does not keep the engine alive, for those who report back after the sources have stopped.
    #[must_use]
    pub fn downgrade(&self) -> WeakInbox {
        WeakInbox { tx: self.tx.downgrade(), room: Arc::clone(&self.room), room_kib: self.room_kib }
    }

    fn kib(&self, bytes: usize) -> u32 {
        // A record larger than the whole room takes all of it: it passes alone instead of never.
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, self.room_kib)
    }
}

/// An [`Inbox`] that does not keep the engine alive.
#[derive(Clone, Debug)]
pub struct WeakInbox {
    tx: mpsc::WeakSender<Envelope>,
    room: Arc<Semaphore>,
    room_kib: u32,
}

impl WeakInbox {
    /// The inbox, while any source still holds one.
    #[must_use]
    pub fn upgrade(&self) -> Option<Inbox> {
        let tx = self.tx.upgrade()?;
        Some(Inbox { tx, room: Arc::clone(&self.room), room_kib: self.room_kib })
    }
}

impl Place {
    /// Puts the record in its place.
    pub fn send(self, record: Record) {
        self.permit.send(Envelope { record, _room: self.room });
    }
}
