//! Where the files go: a folder of their own, or a tar on stdout. Owns the folder's name and the words when it cannot be made.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use exporters::files;
use jiff::Timestamp;
use model::profile::ProfileSet;
use model::time::{SECOND_NS, Stamp};

use crate::cli::{Exit, Failure, again, say, tell};

/// Where to.
#[derive(Debug)]
pub(super) enum Out {
    /// A folder; `made` when it was made for this.
    Folder {
        /// Its path.
        path: PathBuf,
        /// Whether it is removed again when nothing is written.
        made: bool,
    },
    /// A tar on stdout; what is for people goes to stderr.
    Tar,
}

impl Out {
    /// Makes the folder before the capture, so that a read-only root is told in the first second and not after the last.
    pub(super) fn prepare(asked: Option<&Path>, member: &str, at: Stamp) -> Result<Out, Failure> {
        if asked == Some(Path::new("-")) {
            return Ok(Out::Tar);
        }
        let path = asked.map_or_else(|| PathBuf::from(folder(member, at)), Path::to_owned);
        let made = !path.exists();
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Ok(()) => Ok(Out::Folder { path, made }),
            Err(error) => {
                let exit = match error.kind() {
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Exit::Privilege,
                    _ => Exit::Software,
                };
                let asked: Vec<String> = std::env::args().collect();
                let error = anyhow!("make {}: {error}\nrun: {}", path.display(), streamed(&asked));
                Err(Failure::new(exit, error))
            }
        }
    }

    /// One line for people.
    pub(super) fn tell(&self, line: &str) {
        match self {
            Out::Folder { .. } => say(line),
            Out::Tar => tell(line),
        }
    }

    /// Leaves no empty folder behind.
    pub(super) fn give_up(&self) {
        if let Out::Folder { path, made: true } = self {
            // Somebody else's file in it keeps it; nothing of ours is lost.
            fs::remove_dir(path).ok();
        }
    }

    /// Writes the files; where there is no profile, a folder gets none. The tar holds the report too.
    pub(super) fn write(
        &self,
        (before, set): (Option<&ProfileSet>, &ProfileSet),
        title: &str,
        report: &[String],
    ) -> Result<Vec<String>, Failure> {
        match self {
            Out::Folder { .. } if set.stacks.is_empty() => {
                self.give_up();
                Ok(Vec::new())
            }
            Out::Folder { path, .. } => {
                let written = files::write_capture(path, before, set, title)?;
                Ok(written.iter().map(|path| path.display().to_string()).collect())
            }
            Out::Tar => {
                let mut archive = stream((before, set), title, report).context("make the tar")?;
                let names = std::mem::take(&mut archive.names);
                let mut stdout = io::stdout().lock();
                stdout.write_all(&archive.bytes).and_then(|()| stdout.flush()).context("write the tar")?;
                Ok(names)
            }
        }
    }
}

/// What was asked, once more with the files on stdout.
fn streamed(asked: &[String]) -> String {
    let mut words = again::words(asked);
    if let Some(at) = words.iter().position(|word| word == "--out") {
        words.drain(at..words.len().min(at + 2));
    }
    words.retain(|word| !word.starts_with("--out="));
    format!("{} --out - > profile.tar", words.join(" "))
}

struct Archive {
    names: Vec<String>,
    bytes: Vec<u8>,
}

/// At most three bodies of a few MiB and a page: held in memory, so that a failure leaves no half archive behind.
fn stream(
    (before, set): (Option<&ProfileSet>, &ProfileSet),
    title: &str,
    report: &[String],
) -> anyhow::Result<Archive> {
    let mut artefacts = if set.stacks.is_empty() { Vec::new() } else { files::render(before, set, title)? };
    let report = report.join("\n") + "\n";
    artefacts.push(files::Artefact { name: "report.txt".to_owned(), bytes: report.into_bytes() });
    let mut archive = tar::Builder::new(Vec::new());
    for artefact in &artefacts {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(artefact.bytes.len())?);
        header.set_mode(0o600);
        header.set_mtime(set.at.wall_ns / SECOND_NS);
        archive.append_data(&mut header, &artefact.name, artefact.bytes.as_slice())?;
    }
    let names = artefacts.into_iter().map(|artefact| artefact.name).collect();
    Ok(Archive { names, bytes: archive.into_inner()? })
}

/// `profile-m1-20261121T044200Z`; a member's name may be any text.
fn folder(member: &str, at: Stamp) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let member: String = member.chars().take(64).map(plain).collect();
    let when = Timestamp::from_second(i64::try_from(at.wall_ns / SECOND_NS).unwrap_or(0)).unwrap_or_default();
    format!("profile-{member}-{}", when.strftime("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_named_by_member_and_time() {
        let at = Stamp { mono_ns: 0, wall_ns: 1_795_524_153 * SECOND_NS };
        assert_eq!(folder("../127.0.0.1:2379", at), "profile-.._127.0.0.1_2379-20261124T124233Z");
    }

    #[test]
    fn where_no_folder_can_be_made_the_command_streams() {
        let check = |asked: &str| {
            let asked: Vec<String> = asked.split(' ').map(str::to_owned).collect();
            let told = streamed(&asked);
            assert!(told.ends_with(" --profile --name m1 --out - > profile.tar"), "{told}");
        };
        check("agent --profile --name m1");
        check("agent --profile --out /ro --name m1");
        check("agent --profile --name m1 --out=/ro");
        check("agent --profile --name m1 --out");
    }

    #[test]
    fn a_tar_without_profiles_holds_the_report() {
        let archive = stream((None, &ProfileSet::default()), "m1", &["not CPU".to_owned()]).unwrap();
        assert_eq!(archive.names, ["report.txt"]);
        let mut read = tar::Archive::new(archive.bytes.as_slice());
        let mut text = String::new();
        let mut entry = read.entries().unwrap().next().unwrap().unwrap();
        io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert_eq!(text, "not CPU\n");
    }
}
