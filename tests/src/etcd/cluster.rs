//! Several members that form one cluster.
//!
//! Owns the ports, the folder and the life of the members, and what takes several of them: leader, health of all,
//! reading and writing through whoever answers.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process, slice,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Member, Options, Version,
    member::{ASK_MAX, Ports, Status},
    ports,
};
use crate::{certs::Certs, process::wait_until};

/// Three members are up after about two seconds on two idle cores; a host at its limit needs many times that.
const START_MAX: Duration = Duration::from_secs(60);

/// Somebody may take a port between our letting go of it and etcd's binding it; three times in a row is something else.
const ATTEMPTS: u32 = 3;

/// Where there is memory for folders: Linux mounts it so.
const MEMORY: &str = "/dev/shm";

/// What several stories at once can need, each with three members that take 64 MiB for their log before the first write.
const ROOM: u64 = 4 << 30;

/// Where the members of stories keep their data: in memory, where there is room for them. Several stories write at once, and
/// on one slow disk each would be in the trouble that another one makes.
fn calm_folder() -> PathBuf {
    // What is left of the folder's limit says nothing of the memory that others take.
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let has_room = available.is_some_and(|kib| kib << 10 >= ROOM)
        && rustix::fs::statvfs(MEMORY).is_ok_and(|memory| memory.f_bavail * memory.f_frsize >= ROOM);
    if has_room { PathBuf::from(MEMORY) } else { env::temp_dir() }
}

/// A cluster on loopback that is healthy when [`Cluster::start`] returns and gone when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    dir: PathBuf,
    certs: Option<Certs>,
    is_dir_ours: bool,
}

impl Cluster {
    /// Starts `members` members of `version` and waits until each answers a linearizable read.
    ///
    /// ```no_run
    /// use harness::etcd::{Cluster, Options, Version};
    /// let cluster = Cluster::start(Version::V3_5, 3, &Options { pprof: true, ..Options::default() })?;
    /// cluster.put("key", "value")?;
    /// cluster.leader()?.kill()?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn start(version: Version, members: usize, options: &Options) -> Result<Cluster> {
        let mut attempt = 1;
        loop {
            match Cluster::try_start(version, members, options) {
                Err(error)
                    if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") =>
                {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn try_start(version: Version, members: usize, options: &Options) -> Result<Cluster> {
        let mut cluster = Cluster::laid_out(version, members, options)?;
        let held = ports::hold(members * 3)?;
        for (index, ports) in held.release().chunks_exact(3).enumerate() {
            if let &[client, peer, metrics] = ports {
                let name = format!("m{}", index + 1);
                cluster.members.push(Member::new(
                    &name,
                    &Ports { client, peer, metrics },
                    &cluster.dir,
                    version,
                ));
            }
        }
        let initial: Vec<String> =
            cluster.members.iter().map(|member| format!("{}={}", member.name(), member.peer_url())).collect();
        for member in &mut cluster.members {
            member.join(&initial.join(","), options, cluster.certs.as_ref());
        }
        for member in &cluster.members {
            member.start()?;
        }
        cluster.wait_healthy(START_MAX)?;
        Ok(cluster)
    }

    fn laid_out(version: Version, members: usize, options: &Options) -> Result<Cluster> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let ours = || calm_folder().join(format!("backburn-etcd-{}-{number}", process::id()));
        let dir = options.dir.clone().unwrap_or_else(ours);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        version.binary()?;
        let certs = options.mutual_tls.then(|| Certs::generate(&dir.join("certs"))).transpose()?;
        Ok(Cluster { members: Vec::with_capacity(members), dir, certs, is_dir_ours: options.dir.is_none() })
    }

    /// In the order of their names, whether they run or not.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member called `m<number>`, from 1.
    pub fn member(&self, number: usize) -> Result<&Member> {
        let member = number.checked_sub(1).and_then(|index| self.members.get(index));
        member.with_context(|| format!("there is no m{number}"))
    }

    /// Client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::client_url).collect()
    }

    /// Data and logs of the members.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a client needs where [`Options::mutual_tls`] is set.
    pub fn certs(&self) -> Option<&Certs> {
        self.certs.as_ref()
    }

    /// Waits until every member is healthy; `limit` counts for all together where they are, as usual, ready at once.
    pub fn wait_healthy(&self, limit: Duration) -> Result<()> {
        self.members.iter().try_for_each(|member| member.wait_healthy(limit))
    }

    /// The member that leads, as seen by one that answers; waits for an election to end.
    pub fn leader(&self) -> Result<&Member> {
        wait_until("a leader", START_MAX, || Ok(self.leader_now()))
    }

    fn leader_now(&self) -> Option<&Member> {
        let views: Vec<(&Member, Status)> =
            self.running().filter_map(|member| Some((member, member.status().ok()?))).collect();
        // A member that has just lost its leader still names it: believe the newest term.
        let (_, newest) = views.iter().max_by_key(|(_, status)| status.raft_term)?;
        views.iter().find(|(_, status)| status.member_id == newest.leader).map(|&(member, _)| member)
    }

    /// Makes `to` the leader and waits until the leader sees it so.
    pub fn move_leader(&self, to: &Member) -> Result<()> {
        let target = to.status()?.member_id;
        let from = self.leader()?;
        if from.name() != to.name() {
            from.call("/v3/maintenance/transfer-leadership", &format!(r#"{{"targetID":"{target}"}}"#))?;
        }
        wait_until(&format!("{} to lead", to.name()), START_MAX, || {
            Ok(self.leader_now().filter(|leader| leader.name() == to.name()).map(drop))
        })
    }

    /// Writes through the first member that takes it.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        let request = format!(r#"{{"key":"{}","value":"{}"}}"#, STANDARD.encode(key), STANDARD.encode(value));
        self.by_any(|member| member.call("/v3/kv/put", &request).map(drop))
    }

    /// Reads linearizably through the first member that answers; `None` where the key does not exist.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let request = format!(r#"{{"key":"{}"}}"#, STANDARD.encode(key));
        let answer = self.by_any(|member| member.call("/v3/kv/range", &request))?;
        let value = answer.pointer("/kvs/0/value").and_then(serde_json::Value::as_str);
        // The gateway leaves an empty value out, as it does with zeros.
        let found = answer.pointer("/kvs/0").map(|_| STANDARD.decode(value.unwrap_or_default()));
        found.transpose().context("value is not base64")
    }

    /// Runs `act` while every member but the leader is frozen for `stall`: what needs a quorum takes that long, and no
    /// election begins where `stall` is well below a second.
    pub fn stalled<T>(&self, stall: Duration, act: impl FnOnce(&Member) -> Result<T>) -> Result<T> {
        let leader = self.leader()?;
        let followers = || self.members.iter().filter(|member| member.name() != leader.name());
        followers().try_for_each(Member::pause)?;
        thread::scope(|scope| {
            let thaw = scope.spawn(|| {
                thread::sleep(stall);
                followers().try_for_each(Member::resume)
            });
            let done = act(leader);
            thaw.join().map_err(|_| anyhow::anyhow!("the thawing thread panicked"))??;
            done
        })
    }

    /// SIGTERM to one member after the other, the leader last: all at once, the leader would wait for seconds to hand
    /// over to a member that is going too.
    pub fn stop(&self) -> Result<()> {
        let leader = self.leader_now().map(Member::name);
        let (last, first): (Vec<&Member>, Vec<&Member>) =
            self.members.iter().partition(|member| Some(member.name()) == leader);
        first.into_iter().chain(last).try_for_each(Member::stop)
    }

    fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.pid().is_some())
    }

    fn by_any<T>(&self, mut ask: impl FnMut(&Member) -> Result<T>) -> Result<T> {
        let mut failed = anyhow::anyhow!("no member runs");
        for member in self.running() {
            match ask(member) {
                Ok(answer) => return Ok(answer),
                Err(error) => failed = error,
            }
        }
        Err(failed.context(format!("no member answered within {ASK_MAX:?}")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.clear();
        // A test that failed leaves its logs behind for whoever looks, every one does with `KEEP=1`.
        if self.is_dir_ours && !thread::panicking() && env::var_os("KEEP").is_none() {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

impl<'a> IntoIterator for &'a Cluster {
    type Item = &'a Member;
    type IntoIter = slice::Iter<'a, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.iter()
    }
}
