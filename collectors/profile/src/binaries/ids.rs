//! What tells a build from others.

use std::fs::{self, File};
use std::path::PathBuf;

use super::Missing;
use crate::symbols::elf::Elf;
use crate::symbols::file::{self, Windows};
use crate::symbols::identity;

/// Each empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The linker's, hexadecimal.
    pub build_id: String,
    /// Go's.
    pub go_build_id: String,
    /// The hash of the file that `OpenTelemetry` recommends, hexadecimal.
    pub htlhash: String,
}

impl Ids {
    /// The program of a process, and its path as the process sees it; `None` where it may not be read.
    #[must_use]
    pub fn of_program(pid: u32) -> Option<(PathBuf, Ids)> {
        let exe = format!("/proc/{pid}/exe");
        let mut windows = Windows::new(file::open(exe.as_ref()).ok()?).ok()?;
        let elf = Elf::read(&mut windows).ok()?;
        let id = identity::build_id(&mut windows, &elf).ok()?;
        let ids = Ids::read(&mut windows, &elf, id.as_deref()).ok()?;
        Some((fs::read_link(exe).ok()?, ids))
    }

    pub(super) fn read(windows: &mut Windows<File>, elf: &Elf, id: Option<&[u8]>) -> Result<Ids, Missing> {
        let build_id = id.map_or_else(String::new, |id| identity::hex(id.iter()));
        let go_build_id = identity::go_build_id(windows, elf).map_err(|_| Missing::Unreadable)?;
        let htlhash = identity::htlhash(windows).map_err(|_| Missing::Unreadable)?;
        Ok(Ids { build_id, go_build_id: go_build_id.unwrap_or_default(), htlhash })
    }
}
