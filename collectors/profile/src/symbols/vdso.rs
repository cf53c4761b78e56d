//! Names in the vdso: the kernel's page of code that each process has mapped, of which there is no file.
//!
//! Owns a copy of our own process's: one kernel maps the same image into all processes of one kind. Refuses ranges of
//! another size, as a 32-bit process has them, for whose image we have no copy.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use super::{
    elf::Mapped,
    file::ReadAt,
    gopclntab::{Frame, Pc},
    native::{NativeError, NativeSymbols},
};

/// Two pages, four on arm64.
const IMAGE_BYTES_MAX: u64 = 1 << 20;
/// Ours has some hundred ranges.
const MAPS_BYTES_MAX: u64 = 8 << 20;

/// Why there are no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VdsoError {
    /// The kernel maps none (`vdso=0`), or hides it.
    #[error("this process has no vdso")]
    Absent,
    /// Our own memory could not be read.
    #[error("read the vdso: {0}")]
    Io(io::ErrorKind),
    /// The image is no ELF file that is understood.
    #[error("{0}")]
    Native(#[from] NativeError),
}

/// The bytes of the image.
#[derive(Debug)]
struct Image(Vec<u8>);

impl ReadAt for Image {
    fn length(&self) -> io::Result<u64> {
        (&self.0[..]).length()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        (&self.0[..]).read_at(offset, into)
    }
}

/// The names of the image.
#[derive(Debug)]
pub struct Vdso {
    symbols: NativeSymbols<Image>,
    length: u64,
}

impl Vdso {
    /// Reads the image from our own memory.
    ///
    /// # Errors
    /// See [`VdsoError`].
    pub fn read() -> Result<Vdso, VdsoError> {
        let image = image()?;
        let length = u64::try_from(image.len()).unwrap_or(u64::MAX);
        Ok(Vdso { symbols: NativeSymbols::open(Image(image))?, length })
    }

    /// Bytes of the image.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Can a range of another process, called `[vdso]`, be the same image? By its size: it has no other mark there.
    #[must_use]
    pub fn is_like(&self, range: &Range<u64>) -> bool {
        range.end.checked_sub(range.start) == Some(self.length)
    }

    /// What is at an address of a process that has the image at `range`; nothing when that is another image.
    ///
    /// # Errors
    /// See [`NativeError`].
    pub fn frames(&mut self, range: &Range<u64>, pc: Pc) -> Result<Vec<Frame>, NativeError> {
        let mapped = Mapped { start: range.start, offset: 0 };
        let address = |pc| self.symbols.elf().code_address(mapped, pc).filter(|_| range.contains(&pc));
        let pc = match pc {
            Pc::Sampled(pc) => address(pc).map(Pc::Sampled),
            // The end of the last function is behind it, so it is the instruction that must be within.
            Pc::Return(pc) => address(pc.saturating_sub(1)).map(|last| Pc::Return(last + 1)),
        };
        match pc.filter(|_| self.is_like(range)) {
            Some(pc) => self.symbols.frames(pc),
            None => Ok(Vec::new()),
        }
    }
}

/// The image, from our own memory.
pub(crate) fn image() -> Result<Vec<u8>, VdsoError> {
    let maps = read_maps().map_err(|error| VdsoError::Io(error.kind()))?;
    let range = maps.lines().find_map(range).ok_or(VdsoError::Absent)?;
    let length = range.end.saturating_sub(range.start);
    if length == 0 || length > IMAGE_BYTES_MAX {
        return Err(VdsoError::Absent);
    }
    let mut image = vec![0; usize::try_from(length).unwrap_or(0)];
    let memory = File::open("/proc/self/mem").map_err(|error| VdsoError::Io(error.kind()))?;
    memory.read_exact_at(&mut image, range.start).map_err(|error| VdsoError::Io(error.kind()))?;
    Ok(image)
}

fn read_maps() -> io::Result<String> {
    let mut text = String::new();
    let maps = File::open("/proc/self/maps")?;
    io::Read::read_to_string(&mut io::Read::take(maps, MAPS_BYTES_MAX), &mut text)?;
    Ok(text)
}

/// The range of a line of maps, if it is the vdso.
fn range(line: &str) -> Option<Range<u64>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-').filter(|_| rest.ends_with("[vdso]"))?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    /// The C library asks the same image for the same function, and the kernel says where it is.
    #[test]
    fn functions_of_our_own_image_have_names() {
        let mut vdso = Vdso::read().unwrap();
        let here = fs::read_to_string("/proc/self/maps").unwrap().lines().find_map(range).unwrap();
        assert!(vdso.is_like(&here));
        // As another process has it, elsewhere.
        let there = 0x7ffd_0000_0000..0x7ffd_0000_0000 + (here.end - here.start);
        let mut names = BTreeSet::new();
        for address in there.clone().step_by(16) {
            for frame in vdso.frames(&there, Pc::Sampled(address)).unwrap() {
                names.insert(frame.function);
            }
        }
        assert!(names.iter().any(|name| name.contains("clock_gettime")), "{names:?}");
        assert!(
            vdso.frames(&(there.start..there.end + 4_096), Pc::Sampled(there.start + 2_048))
                .unwrap()
                .is_empty()
        );
        assert!(vdso.frames(&there, Pc::Sampled(there.start)).unwrap().is_empty(), "headers are no code");
        assert!(vdso.frames(&there, Pc::Return(0)).unwrap().is_empty());
    }
}
