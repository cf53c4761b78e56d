//! The system call by which programs get into the kernel.
//!
//! Owns what they need: arrays of one value, and programs that are run by us and by nothing else. It refuses to know what they
//! do.
#![expect(unsafe_code, reason = "bpf has no safe form in std")]

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Commands, of the kernel's `linux/bpf.h` as everything here.
const MAP_CREATE: c_int = 0;
const MAP_LOOKUP: c_int = 1;
const MAP_UPDATE: c_int = 2;
const PROG_LOAD: c_int = 5;
const PROG_RUN: c_int = 10;
const MAP_FREEZE: c_int = 22;

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `BPF_F_RDONLY_PROG`.
const READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;
/// `BPF_PROG_TYPE_SYSCALL`: nothing in the kernel calls it. Linux 5.14.
const RUN_BY_HAND: u32 = 31;
/// `BPF_F_SLEEPABLE`, which that kind has to be.
const SLEEPABLE: u32 = 1 << 4;
/// A name in the kernel, with its zero.
const NAME_BYTES: usize = 16;

/// One instruction as the kernel takes it, on a machine that puts low bytes first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// What is written in the lower four bits, what is read in the upper ones.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// An array with one value.
#[derive(Debug)]
pub(super) struct Array {
    fd: OwnedFd,
    value_bytes: usize,
}

#[repr(C)]
struct Create {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
struct Element {
    array: u32,
    _gap: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    instructions_at: u64,
    licence_at: u64,
    log_level: u32,
    log_bytes: u32,
    log_at: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    returned: u32,
    sizes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
}

impl Array {
    /// For a value of so many bytes.
    pub(super) fn new(value_bytes: usize, name: &[u8; NAME_BYTES]) -> io::Result<Array> {
        Array::create(value_bytes, 0, name)
    }

    /// With a value that nobody changes any more.
    pub(super) fn constant(value: &[u8], name: &[u8; NAME_BYTES]) -> io::Result<Array> {
        let array = Array::create(value.len(), READ_ONLY_FOR_PROGRAMS, name)?;
        array.put(value)?;
        let mut frozen = array.number();
        // SAFETY: this command takes the number of an array and touches no memory of ours.
        unsafe { call(MAP_FREEZE, &mut frozen) }?;
        Ok(array)
    }

    fn create(value_bytes: usize, flags: u32, name: &[u8; NAME_BYTES]) -> io::Result<Array> {
        let bytes = u32::try_from(value_bytes).map_err(|_| invalid())?;
        let (kind, name) = (ARRAY, *name);
        let mut wanted =
            Create { kind, key_bytes: 4, value_bytes: bytes, entries: 1, flags, inner: 0, node: 0, name };
        // SAFETY: this command reads integers and a name, and touches no memory of ours.
        let made = unsafe { call(MAP_CREATE, &mut wanted) }?;
        // SAFETY: the kernel has just made it for us.
        Ok(Array { fd: unsafe { owned(made) }?, value_bytes })
    }

    /// By which a program knows it.
    pub(super) fn number(&self) -> u32 {
        u32::try_from(self.fd.as_raw_fd()).unwrap_or(u32::MAX)
    }

    /// Writes the whole value.
    pub(super) fn put(&self, value: &[u8]) -> io::Result<()> {
        if value.len() != self.value_bytes {
            return Err(invalid());
        }
        let key = 0_u32;
        let mut element = self.element(&key, value.as_ptr());
        // SAFETY: the kernel reads the four bytes of the key and as many of the value as the array was made for, which were
        // just counted. Both outlive the call.
        unsafe { call(MAP_UPDATE, &mut element) }.map(drop)
    }

    /// Reads the whole value.
    pub(super) fn get(&self, value: &mut [u8]) -> io::Result<()> {
        if value.len() != self.value_bytes {
            return Err(invalid());
        }
        let key = 0_u32;
        let mut element = self.element(&key, value.as_mut_ptr());
        // SAFETY: the kernel reads the four bytes of the key and writes as many to the value as the array was made for,
        // which were just counted and are ours alone. Both outlive the call.
        unsafe { call(MAP_LOOKUP, &mut element) }.map(drop)
    }

    fn element(&self, key: &u32, value: *const u8) -> Element {
        let (key, value) = (ptr::from_ref(key).expose_provenance(), value.expose_provenance());
        Element { array: self.number(), _gap: 0, key: key as u64, value: value as u64, flags: 0 }
    }
}

/// A program that runs when we say so.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

impl Program {
    /// Has the kernel prove that it does no harm, and compile it.
    pub(super) fn load(code: &[Instruction], name: &[u8; NAME_BYTES]) -> io::Result<Program> {
        // What tells a name may be called by programs under the GPL alone; these few instructions are offered under it too.
        let licence = c"Dual MIT/GPL";
        let mut wanted = Load {
            kind: RUN_BY_HAND,
            instructions: u32::try_from(code.len()).map_err(|_| invalid())?,
            instructions_at: code.as_ptr().expose_provenance() as u64,
            licence_at: licence.as_ptr().expose_provenance() as u64,
            log_level: 0,
            log_bytes: 0,
            log_at: 0,
            kernel_version: 0,
            flags: SLEEPABLE,
            name: *name,
        };
        // SAFETY: the kernel reads as many instructions as there are and a text that ends with zero; both outlive the call.
        let made = unsafe { call(PROG_LOAD, &mut wanted) }?;
        // SAFETY: the kernel has just made it for us.
        unsafe { owned(made) }.map(Program)
    }

    /// Runs it once.
    pub(super) fn run(&self) -> io::Result<()> {
        let program = u32::try_from(self.0.as_raw_fd()).map_err(|_| invalid())?;
        let mut run = Run { program, ..Run::default() };
        // SAFETY: it is given no memory of ours but `run` itself, where the kernel writes what the program returned.
        unsafe { call(PROG_RUN, &mut run) }.map(drop)
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// # Safety
/// `attributes` is what the kernel expects of this command, and memory that it points to outlives the call and has the
/// length that it says.
unsafe fn call<T>(command: c_int, attributes: &mut T) -> io::Result<c_long> {
    // SAFETY: the kernel reads and writes no more of `attributes` than its size; the rest is the caller's word.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// `made` is a descriptor that nobody else knows.
unsafe fn owned(made: c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(made).map_err(|_| invalid())?;
    // SAFETY: it is the caller's word.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
