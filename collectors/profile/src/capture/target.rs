//! Who may be profiled, and by what.

use std::fmt;
use std::sync::Arc;

use model::origin::Origin;

/// Tells who a target is, as far as it is known by now.
pub type Identity = Arc<dyn Fn() -> Arc<Origin> + Send + Sync>;

/// A process's pprof endpoint.
#[derive(Clone, Debug)]
pub struct Pprof {
    /// Scheme, host and port, e.g. `https://127.0.0.1:2379`.
    pub base_url: String,
    /// Made by [`crate::fetch::client`].
    pub client: reqwest::Client,
}

/// A member that may be profiled.
#[derive(Clone)]
pub struct ProfileTarget {
    /// Member name, as requests name it.
    pub name: String,
    /// Its endpoint, where it may have one.
    pub pprof: Option<Pprof>,
    /// Whom records are about.
    pub identity: Identity,
}

impl fmt::Debug for ProfileTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileTarget").field("name", &self.name).field("pprof", &self.pprof).finish()
    }
}
