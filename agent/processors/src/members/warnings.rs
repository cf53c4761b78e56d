//! What members' accounts say only side by side: hashes that differ, alarms, versions. Refuses to compare across clusters,
//! and hashes of different revisions or by different versions of etcd: those differ on healthy members too.

use std::collections::{BTreeMap, BTreeSet};

use model::member::{HashKv, MemberState};

/// One member that answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'a> {
    pub(super) name: &'a str,
    pub(super) state: &'a MemberState,
    /// Its last hash, which may be older than the account, and the version that computed it.
    pub(super) hash: Option<(HashKv, &'a str)>,
}

/// A member and its hash.
type Hashed<'a> = (&'a str, u32);

/// The worst first: data, alarms, versions.
pub(super) fn of(accounts: &[Account<'_>]) -> Vec<String> {
    let mut clusters: BTreeMap<u64, Vec<Account<'_>>> = BTreeMap::new();
    for account in accounts {
        clusters.entry(account.state.cluster_id).or_default().push(*account);
    }
    clusters
        .values()
        .flat_map(|members| hashes(members).chain(alarms(members)).chain(versions(members)))
        .collect()
}

/// One warning for each revision at which members have more than one hash.
fn hashes(members: &[Account<'_>]) -> impl Iterator<Item = String> {
    let mut hashed: BTreeMap<(u64, u64, &str), Vec<Hashed<'_>>> = BTreeMap::new();
    for account in members {
        if let Some((hash, version)) = account.hash {
            let at = (hash.revision, hash.compact_revision, version);
            hashed.entry(at).or_default().push((account.name, hash.hash));
        }
    }
    hashed.into_iter().filter_map(|((revision, ..), hashes)| {
        let differ = hashes.iter().any(|(_, hash)| hashes.first().is_some_and(|(_, first)| hash != first));
        let names: Vec<&str> = hashes.iter().map(|(name, _)| *name).collect();
        let told: Vec<String> = hashes.iter().map(|(name, hash)| format!("{name} {hash:08x}")).collect();
        differ.then(|| {
            format!(
                "hashes of {} differ at revision {revision}: the data differ ({})",
                names.join(" and "),
                told.join(", ")
            )
        })
    })
}

/// Every member tells all alarms of the cluster: each is said once.
fn alarms(members: &[Account<'_>]) -> impl Iterator<Item = String> {
    let told: BTreeSet<(&str, u64)> = members
        .iter()
        .flat_map(|account| account.state.alarms.iter().map(|(alarm, of)| (alarm.as_str(), *of)))
        .collect();
    told.into_iter().map(|(alarm, of)| {
        let means = match alarm {
            "NOSPACE" => ": the quota is used up, and the cluster refuses writes until the alarm is disarmed",
            "CORRUPT" => ": its data are not those of the others",
            _ => "",
        };
        format!("alarm {alarm} of {}{means}", name(members, of))
    })
}

/// The name under which a member is watched, else that of the member list, else its id.
fn name(members: &[Account<'_>], id: u64) -> String {
    let watched = members.iter().find(|account| account.state.id == id).map(|account| account.name);
    let mut listed = members.iter().flat_map(|account| &account.state.members);
    let listed = || listed.find(|one| one.id == id && !one.name.is_empty()).map(|one| one.name.as_str());
    watched.or_else(listed).map_or_else(|| format!("{id:x}"), str::to_owned)
}

/// Members that run different versions, as in the middle of an upgrade, or after one that was forgotten.
fn versions(members: &[Account<'_>]) -> impl Iterator<Item = String> {
    let known: Vec<&Account<'_>> =
        members.iter().filter(|account| !account.state.version.is_empty()).collect();
    let versions: BTreeSet<&str> = known.iter().map(|account| account.state.version.as_str()).collect();
    let told = || {
        let each = known.iter().map(|account| format!("{} {}", account.name, account.state.version));
        format!("members run different versions: {}", each.collect::<Vec<_>>().join(", "))
    };
    (versions.len() > 1).then(told).into_iter()
}

#[cfg(test)]
mod tests {
    use model::member::{ListedMember, MemberState};

    use super::*;

    fn member(id: u64) -> MemberState {
        MemberState { id, cluster_id: 7, version: "3.5.33".to_owned(), ..MemberState::default() }
    }

    fn hash(revision: u64, compact_revision: u64, hash: u32) -> Option<HashKv> {
        Some(HashKv { revision, compact_revision, hash })
    }

    /// Members m1, m2, ... with the hashes that stand beside them.
    fn check(members: &[(MemberState, Option<HashKv>)], expected: &[&str]) {
        let names = ["m1", "m2", "m3"];
        let accounts: Vec<Account<'_>> = members
            .iter()
            .zip(names)
            .map(|((state, hash), name)| {
                let hash = hash.map(|hash| (hash, state.version.as_str()));
                Account { name, state, hash }
            })
            .collect();
        assert_eq!(of(&accounts), expected);
    }

    #[test]
    fn hashes_are_compared_only_where_equal_data_give_equal_ones() {
        check(&[], &[]);
        check(&[(member(1), hash(5, 2, 7)), (member(2), hash(5, 2, 7)), (member(3), None)], &[]);
        let all = [(member(1), hash(5, 2, 7)), (member(2), hash(5, 2, 255)), (member(3), hash(5, 2, 7))];
        let differ = "hashes of m1 and m2 and m3 differ at revision 5: the data differ";
        check(&all, &[&format!("{differ} (m1 00000007, m2 000000ff, m3 00000007)")]);
        check(&[(member(1), hash(5, 2, 7)), (member(2), hash(6, 2, 8))], &[]);
        check(&[(member(1), hash(5, 2, 7)), (member(2), hash(5, 3, 8))], &[]);
        let elsewhere = MemberState { cluster_id: 8, ..member(2) };
        check(&[(member(1), hash(5, 2, 7)), (elsewhere, hash(5, 2, 8))], &[]);
    }

    #[test]
    fn members_in_an_upgrade_are_told_and_their_hashes_not_compared() {
        let newer = MemberState { version: "3.6.4".to_owned(), ..member(2) };
        let told = ["members run different versions: m1 3.5.33, m2 3.6.4"];
        check(&[(member(1), hash(5, 2, 7)), (newer, hash(5, 2, 8))], &told);
        let untold = MemberState { version: String::new(), ..member(2) };
        check(&[(member(1), None), (untold, None)], &[]);
    }

    #[test]
    fn an_alarm_that_all_members_tell_is_said_once_and_by_name() {
        let listed = ListedMember { id: 9, name: "away".to_owned(), ..ListedMember::default() };
        let alarms = vec![("NOSPACE".to_owned(), 2), ("CORRUPT".to_owned(), 9), ("NEW".to_owned(), 0xab)];
        let with = |id| MemberState { alarms: alarms.clone(), members: vec![listed.clone()], ..member(id) };
        check(
            &[(with(1), None), (with(2), None)],
            &[
                "alarm CORRUPT of away: its data are not those of the others",
                "alarm NEW of ab",
                "alarm NOSPACE of m2: the quota is used up, and the cluster refuses writes until the alarm is disarmed",
            ],
        );
    }
}
