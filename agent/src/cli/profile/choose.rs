//! Which member is profiled, and by which clients. Owns the default (the only local member, else the leader among the local
//! ones) and the words for what is not permitted, with the command that would be.

use std::time::Duration;

use anyhow::anyhow;
use collectors::clock;
use collectors::discover::{self, Environment};
use collectors::scrape::{Config as ScrapeConfig, Scraper, StartError};
use collectors::target::Target;
use collectors::tls::{self, TlsError};
use model::ledger::Ledger;
use model::record::Fact;
use profile::capture::Pprof;
use profile::fetch;

use super::page::Pages;
use crate::cli::{Exit, Failure, again, tell};
use crate::config::Config;
use crate::run::sources;

/// A page of a member under load may take seconds; the window waits for none.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// What discovery says of a file that is there and not ours to read.
const PERMISSION_DENIED: &str = "permission denied";

/// The variables that name a member's address and its certificates, as etcdctl has them.
const ETCDCTL: [&str; 4] = ["ETCDCTL_ENDPOINTS", "ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"];

/// The member, and why this one.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The member.
    pub(super) target: Target,
    /// For people: `the leader of 3 local members`.
    pub(super) why: String,
}

/// Where profiles come from.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Address and client, with the member's certificates.
    pub(super) pprof: Pprof,
    /// Whether the member was not known to serve profiles, and its client address is tried all the same.
    pub(super) guessed: bool,
}

/// The member of that name, or the default one.
pub(super) async fn choose(config: &Config, name: Option<&str>) -> Result<Chosen, Failure> {
    let sources::Found { mut targets, looked, .. } = sources::find(config, &[]).await;
    if targets.is_empty() {
        for line in looked {
            tell(&line);
        }
        return Err(Failure::new(Exit::TargetDown, anyhow!("no etcd member found; name one with --config")));
    }
    if let Some(name) = name {
        let target = named(targets, name)?;
        return Ok(with_log(config, Chosen { target, why: "named".to_owned() }).await);
    }
    let local = targets.iter().filter(|target| target.local).count();
    targets.retain(|target| local == 0 || target.local);
    let (n, place) = (targets.len(), if local == 0 { "known" } else { "local" });
    if n > 1 {
        // The leader does the cluster's writes: where it hurts first.
        for at in 0..n {
            if let Some(target) = targets.get(at)
                && leads(target).await
            {
                let why = format!("the leader of {n} {place} members");
                return Ok(with_log(config, Chosen { target: targets.swap_remove(at), why }).await);
            }
        }
    }
    let first = targets.into_iter().next();
    let target = first.ok_or_else(|| Failure::new(Exit::TargetDown, anyhow!("no etcd member found")))?;
    let why = if n == 1 {
        format!("the only {place} member")
    } else {
        format!("the first of {n} {place} members, none of them the leader; --name chooses another")
    };
    Ok(with_log(config, Chosen { target, why }).await)
}

/// The member of that name, else the one at that address: two clusters on a machine may give one name twice.
fn named(targets: Vec<Target>, name: &str) -> Result<Target, Failure> {
    let known: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
    let at = targets.iter().position(|target| target.name == name);
    let at = at.or_else(|| targets.iter().position(|target| is_named(target, name)));
    at.and_then(|at| targets.into_iter().nth(at)).ok_or_else(|| {
        let error = anyhow!("no member is called {name}; there are: {}", known.join(", "));
        Failure::new(Exit::TargetDown, error)
    })
}

/// Whether it is the member's name, or its `host:port`.
pub(super) fn is_named(target: &Target, name: &str) -> bool {
    target.name == name || is_at(target, name)
}

fn is_at(target: &Target, address: &str) -> bool {
    let origin = target.identity.origin();
    let endpoint = origin.member.as_ref().map_or("", |member| member.endpoint.as_str());
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    authority.trim_end_matches('/') == address
}

/// A member that was named without its log may be seen on this node with one.
async fn with_log(config: &Config, mut chosen: Chosen) -> Chosen {
    let target = &mut chosen.target;
    if target.log_file.is_none() && target.pid.is_some() {
        let environment =
            Environment { vars: config.etcd.variables.clone(), ..Environment::system(&config.node) };
        let found = tokio::task::spawn_blocking(move || discover::find(&environment)).await;
        let same = found.ok().and_then(|found| {
            let mut seen = found.targets.into_iter().chain(found.candidates);
            seen.find(|one| one.pid == target.pid)
        });
        target.log_file = same.and_then(|same| same.log_file);
    }
    target.log_file = sources::log_now(target);
    chosen
}

async fn leads(target: &Target) -> bool {
    let Ok(Some(mut scraper)) = scraper(target) else { return false };
    let Fact::Scrape(page) = scraper.scrape().await.fact else { return false };
    Pages::new(None, Some(&page)).now("etcd_server_is_leader") == Some(1.0)
}

/// A scraper for single pages; `None` where the member has no metrics address that we may ask.
pub(super) fn scraper(target: &Target) -> Result<Option<Scraper>, Failure> {
    if target.metrics_url.is_none() {
        return Ok(None);
    }
    let config =
        ScrapeConfig { interval: SCRAPE_TIMEOUT * 2, timeout: SCRAPE_TIMEOUT, ..ScrapeConfig::default() };
    match Scraper::new(target, config, clock::system(), Ledger::default()) {
        Ok(scraper) => Ok(Some(scraper)),
        Err(StartError::Tls(error)) => Err(certificate(target, error)),
        Err(error) => Err(Failure::new(Exit::Config, error)),
    }
}

/// Where to fetch profiles. A member that is not known to serve any is asked at its client address: one answer of 404.
pub(super) async fn endpoint(config: &Config, target: &Target) -> Result<Option<Endpoint>, Failure> {
    let guessed = target.pprof_url.is_none();
    let Some(base_url) = target.pprof_url.clone().or_else(|| target.client_url.clone()) else {
        let named = config.etcd.members.iter().any(|member| member.name == target.name);
        // Found, but closed to us: discovery leaves out an address whose certificate is not readable.
        return if named { Ok(None) } else { Err(closed(config, target).await) };
    };
    let tls = base_url.starts_with("https://").then(|| tls::client_config(&target.tls)).transpose();
    let tls = tls.map_err(|error| certificate(target, error))?;
    let client = fetch::client(tls).map_err(|error| Failure::new(Exit::Config, error))?;
    Ok(Some(Endpoint { pprof: Pprof { base_url, client }, guessed }))
}

/// The refusal of a member whose certificate is not readable, with what discovery saw.
async fn closed(config: &Config, target: &Target) -> Failure {
    let seen = sources::find(config, &[]).await.looked;
    let denied: Vec<&str> =
        seen.iter().map(String::as_str).filter(|line| line.contains(PERMISSION_DENIED)).collect();
    if denied.is_empty() {
        refused(target, "no certificate is readable")
    } else {
        unreadable(target, &denied.join("; "))
    }
}

fn certificate(target: &Target, error: TlsError) -> Failure {
    match &error {
        TlsError::Read { cause, .. } if cause.kind() == std::io::ErrorKind::PermissionDenied => {
            unreadable(target, &error.to_string())
        }
        _ => Failure::new(Exit::Config, error),
    }
}

/// What a member refuses to whoever asks: root would need a certificate that it accepts as well.
pub(super) fn refused(target: &Target, why: &str) -> Failure {
    barred(target, why, &Cure::Certificate)
}

/// What a file's mode refuses to us.
fn unreadable(target: &Target, why: &str) -> Failure {
    let variables = ETCDCTL.into_iter().filter(|name| std::env::var_os(name).is_some());
    barred(target, why, &Cure::Root { keep: variables.collect() })
}

fn barred(target: &Target, why: &str, cure: &Cure) -> Failure {
    let asked: Vec<String> = std::env::args().collect();
    let command = command(&asked, &target.name, cure);
    Failure::new(Exit::Privilege, anyhow!("{} may not be profiled: {why}\nrun: {command}", target.name))
}

/// What is missing.
enum Cure {
    /// Root reads every file; sudo forgets the variables that it is not told to keep.
    Root { keep: Vec<&'static str> },
    /// A certificate that the member accepts, named in the file where there is one, else by etcdctl's variables.
    Certificate,
}

/// What was asked, once more with what it takes.
fn command(asked: &[String], name: &str, cure: &Cure) -> String {
    let mut words = again::words(asked);
    if !asked.iter().any(|word| word == "--name" || word.starts_with("--name=")) {
        words.extend(["--name".to_owned(), again::quoted(name)]);
    }
    let again = words.join(" ");
    let configured = asked.iter().any(|word| word == "--config" || word.starts_with("--config="));
    match cure {
        Cure::Root { keep } if keep.is_empty() => format!("sudo {again}"),
        Cure::Root { keep } => format!("sudo --preserve-env={} {again}", keep.join(",")),
        Cure::Certificate if configured => format!("{again}   (when the file names cert and key of {name})"),
        Cure::Certificate => {
            format!("ETCDCTL_CACERT=CA.crt ETCDCTL_CERT=CLIENT.crt ETCDCTL_KEY=CLIENT.key {again}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cure, command};

    fn check(asked: &str, cure: &Cure, begin: &str, end: &str) {
        let asked: Vec<String> = asked.split(' ').map(str::to_owned).collect();
        let seen = command(&asked, "m 1", cure);
        assert!(seen.starts_with(begin) && seen.ends_with(end), "{seen}");
    }

    #[test]
    fn the_command_is_the_one_that_was_asked_with_what_is_missing() {
        let root = Cure::Root { keep: Vec::new() };
        check("agent --profile --for 3s", &root, "sudo /", " --profile --for 3s --name 'm 1'");
        check("agent profile --name=x", &root, "sudo /", " profile --name=x");
        let keep = Cure::Root { keep: vec!["ETCDCTL_CERT", "ETCDCTL_KEY"] };
        check(
            "agent profile",
            &keep,
            "sudo --preserve-env=ETCDCTL_CERT,ETCDCTL_KEY /",
            " profile --name 'm 1'",
        );
        check("agent profile", &Cure::Certificate, "ETCDCTL_CACERT=", " profile --name 'm 1'");
        let named = "(when the file names cert and key of m 1)";
        check("agent profile --config f", &Cure::Certificate, "/", named);
    }
}
