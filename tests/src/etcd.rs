//! Real etcd: which releases there are, where their binaries lie, how one is told to start.
//!
//! Owns versions and options. The running thing is [`cluster::Cluster`]. Never speaks to an etcd it did not start.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Result, bail};

pub mod cluster;
pub mod member;
pub(crate) mod ports;

// A story imports from one place.
pub use cluster::Cluster;
pub use member::Member;

/// A release line of etcd, as `make tools` fetches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 3.4 of a package archive: capnslog by default, no pre-vote, no `/livez`.
    V3_4,
    /// 3.5.16, which carries a real performance regression (etcd issue 19406) that 3.5.33 has not.
    V3_5_16,
    /// 3.5.33.
    V3_5,
    /// 3.6, newest patch.
    V3_6,
    /// 3.7, newest patch.
    V3_7,
}

impl Version {
    /// One of each release line, oldest first: what a compatibility story goes through.
    pub const LINES: [Version; 4] = [Version::V3_4, Version::V3_5, Version::V3_6, Version::V3_7];

    /// The name of its folder in `.tools/etcd`.
    pub fn name(self) -> &'static str {
        match self {
            Version::V3_4 => "3.4",
            Version::V3_5_16 => "3.5.16",
            Version::V3_5 => "3.5",
            Version::V3_6 => "3.6",
            Version::V3_7 => "3.7",
        }
    }

    /// The binary: `$ETCD_3_4`, `$ETCD_3_5`, `$ETCD_3_5_16`, … where set, else the one in `.tools`.
    pub fn binary(self) -> Result<PathBuf> {
        let variable = format!("ETCD_{}", self.name().replace('.', "_"));
        if let Some(path) = env::var_os(&variable).filter(|path| !path.is_empty()) {
            let path = PathBuf::from(path);
            if !path.is_file() {
                bail!("{variable} is {}, which is not a file", path.display());
            }
            return Ok(path);
        }
        let path = tools().join("etcd").join(self.name()).join("etcd");
        if !path.is_file() {
            bail!("no etcd {self} at {}: run `make tools`, or set {variable}", path.display());
        }
        Ok(path)
    }

    /// `--logger` and `--log-outputs` as flags are zap's; 3.4 also has the older logger, and defaults to it.
    fn has_capnslog(self) -> bool {
        self == Version::V3_4
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    /// Takes the names that `ETCD_VERSION` of `make demo` takes: a release line, or 3.5.16, or 3.5.33.
    fn from_str(name: &str) -> Result<Version> {
        Ok(match name {
            "3.4" => Version::V3_4,
            "3.5.16" => Version::V3_5_16,
            "3.5" | "3.5.33" => Version::V3_5,
            "3.6" => Version::V3_6,
            "3.7" => Version::V3_7,
            _ => bail!("no etcd {name:?} here; there are 3.4, 3.5, 3.5.16, 3.6 and 3.7"),
        })
    }
}

/// The folder that `make tools` fills.
pub fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools")
}

/// The Go of the set-up, or the one on PATH; `GO` names another one.
pub fn go() -> PathBuf {
    let ours = tools().join("go/bin/go");
    match env::var_os("GO") {
        Some(named) => named.into(),
        None if ours.exists() => ours,
        None => "go".into(),
    }
}

/// etcdctl of 3.6, which speaks to every release line here.
pub fn etcdctl() -> Result<PathBuf> {
    let path = tools().join("etcd/3.6/etcdctl");
    if !path.is_file() {
        bail!("no etcdctl at {}: run `make tools`", path.display());
    }
    Ok(path)
}

/// What a member writes its log with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logger {
    /// What the version does when nobody says anything: zap's JSON, capnslog on 3.4.
    #[default]
    Shipped,
    /// zap's JSON on every version.
    Zap,
}

/// How the members of a cluster are started, beyond names and addresses.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Serves `/debug/pprof` on the client address (and up to 3.7 nowhere else).
    pub pprof: bool,
    /// `--metrics=extensive`: adds the gRPC handling-time histograms.
    pub extensive_metrics: bool,
    /// Clients speak TLS and show a certificate; [`Cluster::certs`] has the files. Peers and the metrics address stay
    /// plain.
    pub mutual_tls: bool,
    /// Which log format.
    pub logger: Logger,
    /// Put behind the harness's own flags, so that they win.
    pub args: Vec<String>,
    /// Added to the environment: `GOGC` is no flag.
    pub env: Vec<(String, String)>,
    /// Where data and logs go; a folder of its own in the temporary folder, removed at the end, where `None`.
    pub dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::{Logger, Options, Version};

    #[test]
    fn versions_are_read_as_they_are_written() {
        for version in Version::LINES.into_iter().chain([Version::V3_5_16]) {
            assert_eq!(version.name().parse::<Version>().unwrap(), version);
        }
        assert_eq!("3.5.33".parse::<Version>().unwrap(), Version::V3_5);
        assert!("3.3".parse::<Version>().is_err());
    }

    #[test]
    fn nothing_is_switched_on_by_default() {
        let options = Options::default();
        assert!(!options.pprof && !options.extensive_metrics && options.logger == Logger::Shipped);
    }
}
