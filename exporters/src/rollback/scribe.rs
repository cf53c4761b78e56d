//! The journal behind tokio's blocking pool: its disk may be etcd's, and a slow sync must not hold up the probes that share
//! this runtime.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::ledger::Ledger;
use serde_json::Value;

use super::book::{Book, Entry};
use super::journal::{Journal, JournalError, Recovered};

/// Owns the journal. A failed write is logged and counted here; the caller only learns that nothing was written.
#[derive(Debug)]
pub(crate) struct Scribe {
    journal: Arc<Mutex<Journal>>,
    ledger: Ledger,
}

impl Scribe {
    /// Opens and recovers; blocking, at start.
    pub(crate) fn open(folder: &Path, ledger: Ledger) -> Result<(Scribe, Recovered), JournalError> {
        let (journal, recovered) = Journal::open(folder)?;
        ledger.set("agent_rollback_journal_bytes", "", journal.bytes());
        Ok((Scribe { journal: Arc::new(Mutex::new(journal)), ledger }, recovered))
    }

    /// See [`Journal::append`].
    pub(crate) async fn append(&self, entry: Entry, durable: bool) -> bool {
        self.write(move |journal| journal.append(&entry, durable)).await
    }

    /// See [`Journal::write_evidence`].
    pub(crate) async fn write_evidence(&self, signal: &str, value: Value) -> bool {
        let signal = signal.to_owned();
        self.write(move |journal| journal.write_evidence(&signal, &value)).await
    }

    /// See [`Journal::rotate`].
    pub(crate) async fn rotate(&self, book: Book) -> bool {
        self.write(move |journal| journal.rotate(&book)).await
    }

    /// See [`Journal::read_evidence`].
    pub(crate) async fn read_evidence(&self, signal: &str) -> Option<Value> {
        let (journal, signal) = (Arc::clone(&self.journal), signal.to_owned());
        tokio::task::spawn_blocking(move || lock(&journal).read_evidence(&signal)).await.ok().flatten()
    }

    /// See [`Journal::is_large`].
    pub(crate) fn is_large(&self) -> bool {
        lock(&self.journal).is_large()
    }

    /// See [`Journal::evidence_path`].
    pub(crate) fn evidence_path(&self, signal: &str) -> PathBuf {
        lock(&self.journal).evidence_path(signal)
    }

    async fn write(
        &self,
        write: impl FnOnce(&mut Journal) -> Result<(), JournalError> + Send + 'static,
    ) -> bool {
        let journal = Arc::clone(&self.journal);
        let blocking = move || {
            let mut journal = lock(&journal);
            write(&mut journal).map(|()| journal.bytes())
        };
        let error = match tokio::task::spawn_blocking(blocking).await {
            Ok(Ok(bytes)) => {
                self.ledger.set("agent_rollback_journal_bytes", "", bytes);
                return true;
            }
            Ok(Err(error)) => chain(&error),
            Err(error) => chain(&error),
        };
        self.ledger.add("agent_rollback_journal_errors_total", "write", 1);
        tracing::error!(error, "the rollback journal cannot be written");
        false
    }
}

/// An error with its cause on one line.
fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    // A write that panicked left whole lines and perhaps a torn one, which the next start skips.
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}
