//! One etcd member as the agent reaches it, and what has been learnt of its identity so far.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use model::member::MemberState;
use model::origin::{MemberRef, Origin};
use model::time::Stamp;
use tokio::sync::watch;

use crate::tls::TlsFiles;

/// How to reach one member. Everything but the name may be missing: what is missing is not asked.
#[derive(Clone, Debug)]
pub struct Target {
    /// Key of all per-member state: `--name` where known, else `host:port` of the endpoint.
    pub name: String,
    /// Client URL for probes and maintenance calls.
    pub client_url: Option<String>,
    /// Full URL of the metrics page.
    pub metrics_url: Option<String>,
    /// Base URL under which `/debug/pprof/` may answer (the client URL, or `--listen-client-http-urls`).
    pub pprof_url: Option<String>,
    /// Certificates for all of them.
    pub tls: TlsFiles,
    /// etcd's own user, for the client URL, where authentication is enabled.
    pub login: Option<Login>,
    /// Process id in our pid namespace, where the member runs on this node.
    pub pid: Option<u32>,
    /// Data directory, where known.
    pub data_dir: Option<PathBuf>,
    /// Log file, where etcd writes one we can follow.
    pub log_file: Option<PathBuf>,
    /// Whether it runs on this node: only such members are probed unless configuration says otherwise.
    pub local: bool,
    /// Who it is, shared by all collectors of this target.
    pub identity: Identity,
}

/// A user of etcd's own authentication. The password leaves this value for etcd alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    password: String,
}

impl Login {
    /// A user and its password.
    #[must_use]
    pub fn new(user: &str, password: &str) -> Login {
        Login { user: user.to_owned(), password: password.to_owned() }
    }

    pub(crate) fn credentials(&self) -> (String, String) {
        (self.user.clone(), self.password.clone())
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Identity of a target, completed by the first collector that gets an answer. Clones share it.
#[derive(Clone, Debug)]
pub struct Identity {
    origin: Arc<RwLock<Arc<Origin>>>,
    statuses: watch::Sender<Option<Told>>,
}

/// A Status answer and when it was asked for.
pub(crate) type Told = (Stamp, MemberState);

impl Identity {
    /// A member of which only the endpoint is known.
    #[must_use]
    pub fn new(node: &str, name: &str, endpoint: &str) -> Identity {
        let member = MemberRef { id: None, name: name.to_owned(), endpoint: endpoint.to_owned() };
        let origin = Origin { cluster_id: None, node: node.to_owned(), member: Some(member) };
        Identity { origin: Arc::new(RwLock::new(Arc::new(origin))), statuses: watch::Sender::new(None) }
    }

    /// Hands a Status answer on: the member is asked once for the probe and for its account.
    pub(crate) fn tell(&self, told: Told) {
        self.statuses.send_replace(Some(told));
    }

    /// Status answers of this member from now on; one that is not taken in time is replaced by the next.
    pub(crate) fn told(&self) -> watch::Receiver<Option<Told>> {
        self.statuses.subscribe()
    }

    /// Who it is, as far as is known now.
    #[must_use]
    pub fn origin(&self) -> Arc<Origin> {
        Arc::clone(&self.origin.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Completes the identity from a response header; does nothing when it is known already.
    pub fn learn(&self, cluster_id: u64, member_id: u64) {
        let known = self.origin();
        if known.cluster_id == Some(cluster_id)
            && known.member.as_ref().and_then(|member| member.id) == Some(member_id)
        {
            return;
        }
        let mut origin = Origin::clone(&known);
        origin.cluster_id = Some(cluster_id);
        if let Some(member) = &mut origin.member {
            member.id = Some(member_id);
        }
        *self.origin.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(origin);
    }
}
