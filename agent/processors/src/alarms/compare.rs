//! What members' accounts say, alone and side by side: hashes that differ, alarms, versions. Refuses to compare across clusters,
//! and hashes of different revisions or by different versions of etcd: those differ on healthy members too.

use std::collections::{BTreeMap, BTreeSet};

use model::finding::Trouble;
use model::member::{HashKv, MemberState};

use super::Standing;

/// Minor releases that members may be apart: one is an upgrade under way.
const MINORS_MAX: u64 = 1;

/// One member whose account counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'a> {
    pub(super) name: &'a str,
    pub(super) state: &'a MemberState,
    /// Its last hash, which may be older than the account, and the version that computed it.
    pub(super) hash: Option<(HashKv, &'a str)>,
    pub(super) quota_bytes: Option<u64>,
    /// Its last round had an answer; the account of one that is silent is older.
    pub(super) answers: bool,
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) key: String,
    pub(super) cluster_id: u64,
    pub(super) trouble: Trouble,
    pub(super) holds: bool,
    pub(super) members: Vec<String>,
    pub(super) sentence: String,
}

/// What a hash may be compared with: one of the same revision and compact revision, computed by the same version.
type Comparable<'a> = (u64, u64, &'a str);

/// Everything that is wrong, cluster by cluster.
pub(super) fn of(accounts: &[Account<'_>]) -> Vec<Found> {
    let mut clusters: BTreeMap<u64, Vec<Account<'_>>> = BTreeMap::new();
    for account in accounts {
        clusters.entry(account.state.cluster_id).or_default().push(*account);
    }
    let found = |(id, members): (&u64, &Vec<Account<'_>>)| {
        let mut found = alarms(*id, members);
        found.extend(hashes(*id, members));
        found.extend(versions(*id, members));
        found
    };
    clusters.iter().flat_map(found).collect()
}

/// Why something that is no longer found is over; `None` while nobody can tell.
pub(super) fn ended(standing: &Standing, accounts: &[Account<'_>]) -> Option<&'static str> {
    let of_cluster = |account: &&Account<'_>| account.state.cluster_id == standing.cluster_id;
    let accounts: Vec<Account<'_>> = accounts.iter().filter(of_cluster).copied().collect();
    match &standing.alarm.trouble {
        _ if accounts.is_empty() => Some("no data"),
        Trouble::VersionSkew { .. } => Some("one version"),
        Trouble::DifferentData { .. } => agree(&standing.alarm.members, &accounts),
        // One that answered before it fell silent says nothing of now.
        Trouble::NoSpace { .. } | Trouble::Corrupt | Trouble::Other(_) => {
            accounts.iter().any(|account| account.answers).then_some("disarmed")
        }
    }
}

/// Data that differed are the same again only when each member has been compared anew: right after one of them was
/// hashed at the next revision there is nothing to compare it with.
fn agree(members: &[String], accounts: &[Account<'_>]) -> Option<&'static str> {
    let groups = comparable(accounts);
    let concerned = |account: &&Account<'_>| members.iter().any(|name| name == account.name);
    let left: Vec<&str> = accounts.iter().filter(concerned).map(|account| account.name).collect();
    let compared = |name: &&str| {
        groups.values().any(|group| group.len() > 1 && group.iter().any(|(member, _)| member == name))
    };
    match left.len() {
        0 | 1 => Some("no data"),
        _ => left.iter().all(compared).then_some("hashes agree"),
    }
}

fn comparable<'a>(accounts: &[Account<'a>]) -> BTreeMap<Comparable<'a>, Vec<(&'a str, u32)>> {
    let mut groups: BTreeMap<Comparable<'_>, Vec<(&str, u32)>> = BTreeMap::new();
    for account in accounts {
        if let Some((hash, version)) = account.hash {
            let at = (hash.revision, hash.compact_revision, version);
            groups.entry(at).or_default().push((account.name, hash.hash));
        }
    }
    groups
}

/// The newest revision at which members have more than one hash.
fn hashes(cluster_id: u64, members: &[Account<'_>]) -> Option<Found> {
    let differ = |hashes: &[(&str, u32)]| {
        hashes.iter().any(|(_, hash)| hashes.first().is_some_and(|(_, first)| hash != first))
    };
    let groups = comparable(members);
    let ((revision, compact_revision, _), hashes) = groups.iter().rfind(|(_, hashes)| differ(hashes))?;
    let names: Vec<&str> = hashes.iter().map(|(name, _)| *name).collect();
    let told: Vec<String> = hashes.iter().map(|(name, hash)| format!("{name} {hash:08x}")).collect();
    Some(Found {
        key: format!("{cluster_id:x} hash"),
        cluster_id,
        holds: true,
        members: names.iter().map(|name| (*name).to_owned()).collect(),
        sentence: format!(
            "hashes of {} differ at revision {revision}: the data differ ({})",
            names.join(" and "),
            told.join(", ")
        ),
        trouble: Trouble::DifferentData {
            revision: *revision,
            compact_revision: *compact_revision,
            hashes: hashes.iter().map(|(name, hash)| ((*name).to_owned(), *hash)).collect(),
        },
    })
}

/// Every member tells all alarms of the cluster: each is found once.
fn alarms(cluster_id: u64, members: &[Account<'_>]) -> Vec<Found> {
    let told: BTreeSet<(&str, u64)> = members
        .iter()
        .filter(|account| account.answers)
        .flat_map(|account| account.state.alarms.iter().map(|(alarm, of)| (alarm.as_str(), *of)))
        .collect();
    let found = |(alarm, of): (&str, u64)| {
        let account = members.iter().find(|account| account.state.id == of);
        let (trouble, means) = match alarm {
            "NOSPACE" => (
                Trouble::NoSpace {
                    db_size_bytes: account.map(|account| account.state.db_size_bytes),
                    quota_bytes: account.and_then(|account| account.quota_bytes),
                },
                ": the quota is used up, and the cluster refuses writes until the alarm is disarmed",
            ),
            "CORRUPT" => (Trouble::Corrupt, ": its data are not those of the others"),
            other => (Trouble::Other(other.to_owned()), ""),
        };
        let name = name(members, of);
        Found {
            key: format!("{cluster_id:x} {alarm} {of:x}"),
            cluster_id,
            trouble,
            holds: true,
            sentence: format!("alarm {alarm} of {name}{means}"),
            members: vec![name],
        }
    };
    told.into_iter().map(found).collect()
}

/// The name under which a member is watched, else that of the member list, else its id.
fn name(members: &[Account<'_>], id: u64) -> String {
    let watched = members.iter().find(|account| account.state.id == id).map(|account| account.name);
    let mut listed = members.iter().flat_map(|account| &account.state.members);
    let listed = || listed.find(|one| one.id == id && !one.name.is_empty()).map(|one| one.name.as_str());
    watched.or_else(listed).map_or_else(|| format!("{id:x}"), str::to_owned)
}

/// Members that run different versions, as in the middle of an upgrade, or after one that was forgotten.
fn versions(cluster_id: u64, members: &[Account<'_>]) -> Option<Found> {
    let known: Vec<&Account<'_>> =
        members.iter().filter(|account| !account.state.version.is_empty()).collect();
    let versions: BTreeSet<&str> = known.iter().map(|account| account.state.version.as_str()).collect();
    if versions.len() < 2 {
        return None;
    }
    let minors_apart = apart(&versions);
    let holds = minors_apart > MINORS_MAX;
    let each = known.iter().map(|account| format!("{} {}", account.name, account.state.version));
    let told = each.collect::<Vec<_>>().join(", ");
    let far = if holds { "; etcd supports one minor release between them" } else { "" };
    Some(Found {
        key: format!("{cluster_id:x} versions"),
        cluster_id,
        holds,
        members: known.iter().map(|account| account.name.to_owned()).collect(),
        sentence: format!("members run different versions: {told}{far}"),
        trouble: Trouble::VersionSkew {
            versions: known
                .iter()
                .map(|account| (account.name.to_owned(), account.state.version.clone()))
                .collect(),
            minors_apart,
        },
    })
}

/// Minor releases between the oldest and the newest; another major release is further than any two of them may be.
fn apart(versions: &BTreeSet<&str>) -> u64 {
    let release = |version: &&str| {
        let mut parts = version.split('.').map(str::parse::<u64>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let releases: BTreeSet<(u64, u64)> = versions.iter().filter_map(release).collect();
    let (Some(oldest), Some(newest)) = (releases.first(), releases.last()) else { return 0 };
    if oldest.0 == newest.0 { newest.1 - oldest.1 } else { MINORS_MAX + 1 }
}
