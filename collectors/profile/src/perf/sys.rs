//! The system calls of sampling: perf events, their rings, clocks, limits.
//!
//! The only unsafe code of sampling. It refuses to know what the events mean.
#![expect(unsafe_code, reason = "perf events, shared rings and thread clocks have no safe form in std")]

use std::ffi::{CStr, c_int, c_long, c_ulong};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attr::Attr;
use super::ring::Memory;

/// Set on every descriptor: a child of the agent has no business with the node's samples.
const FLAG_FD_CLOEXEC: c_ulong = 1 << 3;
/// The `pid` is the descriptor of a cgroup directory.
const FLAG_PID_CGROUP: c_ulong = 1 << 2;

const IOC_ENABLE: c_ulong = 0x2400;
const IOC_DISABLE: c_ulong = 0x2401;
const IOC_PERIOD: c_ulong = 0x4008_2404;
const IOC_SET_OUTPUT: c_ulong = 0x2405;
const IOC_SET_FILTER: c_ulong = 0x4008_2406;

/// Where in the first page of a ring the kernel keeps how far it has written, and reads how far we have read.
const HEAD_AT: usize = 1024;
const TAIL_AT: usize = 1032;

/// Whom an event watches on its CPU.
#[derive(Clone, Copy, Debug)]
pub(super) enum Watched {
    /// Every task.
    All,
    /// One thread, and what it starts if the event is inherited.
    Task(u32),
    /// All tasks of the cgroup whose directory is open here.
    Cgroup(RawFd),
}

/// Opens one event on one CPU, as a member of the group that another one leads if there is one.
pub(super) fn open(attr: &Attr, watched: Watched, cpu: u32, leader: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let out_of_range = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let cpu = c_int::try_from(cpu).map_err(out_of_range)?;
    let (pid, flags) = match watched {
        Watched::All => (-1, FLAG_FD_CLOEXEC),
        Watched::Task(tid) => (c_int::try_from(tid).map_err(out_of_range)?, FLAG_FD_CLOEXEC),
        Watched::Cgroup(fd) => (fd, FLAG_FD_CLOEXEC | FLAG_PID_CGROUP),
    };
    let group = leader.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: `attr` is a plain struct laid out as the kernel's, its `size` field is its size, and it outlives the call;
    // all other arguments are integers.
    owned(unsafe { libc::syscall(libc::SYS_perf_event_open, ptr::from_ref(attr), pid, cpu, group, flags) })
}

/// The descriptor that a system call has just made, or its error.
fn owned(result: c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: every caller has just got it from the kernel, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts counting.
pub(super) fn enable(event: &OwnedFd) -> io::Result<()> {
    control(event, IOC_ENABLE, 0)
}

/// Stops counting.
pub(super) fn disable(event: &OwnedFd) -> io::Result<()> {
    control(event, IOC_DISABLE, 0)
}

/// Lets `event` write into the ring of `owner`, which must be on the same CPU.
pub(super) fn redirect(event: &OwnedFd, owner: &OwnedFd) -> io::Result<()> {
    control(event, IOC_SET_OUTPUT, c_ulong::try_from(owner.as_raw_fd()).unwrap_or(c_ulong::MAX))
}

/// Sets the period of `event`: on the CPU clock always nanoseconds.
pub(super) fn set_period(event: &OwnedFd, period_ns: u64) -> io::Result<()> {
    // SAFETY: the argument of this request is a pointer to eight bytes, which live through the call.
    let done = unsafe { libc::ioctl(event.as_raw_fd(), IOC_PERIOD, ptr::from_ref(&period_ns)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the kernel drop what does not meet this condition before it becomes a sample of `event`, which must be on a tracepoint.
pub(super) fn filter(event: &OwnedFd, condition: &CStr) -> io::Result<()> {
    // SAFETY: the argument of this request is a text that ends with zero and lives through the call.
    let done = unsafe { libc::ioctl(event.as_raw_fd(), IOC_SET_FILTER, condition.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn control(event: &OwnedFd, request: c_ulong, argument: c_ulong) -> io::Result<()> {
    // SAFETY: these requests take an integer and touch no memory of ours.
    let done = unsafe { libc::ioctl(event.as_raw_fd(), request, argument) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A ring as the kernel shares it: one page of positions, then the records.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    page_bytes: usize,
    data_bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only changed through the atomics below.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the ring of `event`; `data_bytes` must be a power of two of pages.
    pub(super) fn new(event: &OwnedFd, data_bytes: usize) -> io::Result<Mapping> {
        let page_bytes = page_bytes();
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let length = page_bytes + data_bytes;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours is replaced.
        let base = unsafe { libc::mmap(ptr::null_mut(), length, access, shared, event.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Mapping { base, page_bytes, data_bytes })
    }

    fn position(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `at` is one of two constants inside the first page, a multiple of eight; the mapping lives as long as
        // `self`, and both sides access these words atomically only.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast::<u64>()) }
    }
}

impl Memory for Mapping {
    fn head(&self) -> u64 {
        // Acquire: the bytes before the head were written before it.
        self.position(HEAD_AT).load(Ordering::Acquire)
    }

    fn release(&self, tail: u64) {
        // Release: our reads end before the kernel may write there again.
        self.position(TAIL_AT).store(tail, Ordering::Release);
    }

    fn bytes(&self) -> usize {
        self.data_bytes
    }

    fn copy(&self, at: usize, into: &mut [u8]) {
        let fits = at <= self.data_bytes && into.len() <= self.data_bytes - at;
        if fits {
            // SAFETY: the range was just checked against the mapping, and `into` is ours alone. The kernel does not
            // write between tail and head, which is where the ring reads; bytes are valid whatever they are.
            unsafe {
                let from = self.base.as_ptr().add(self.page_bytes + at);
                ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
            }
        }
    }

    fn show(&self, at: usize, length: usize, to: &mut dyn FnMut(&[u8])) {
        let fits = at <= self.data_bytes && length <= self.data_bytes - at;
        if fits {
            // SAFETY: the range was just checked against the mapping, which outlives the call. It lies between tail and
            // head, where the kernel does not write; the tail is moved after the call, by the ring that calls.
            to(unsafe { slice::from_raw_parts(self.base.as_ptr().add(self.page_bytes + at), length) });
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, with its length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.page_bytes + self.data_bytes) };
    }
}

/// `FSCONFIG_CMD_CREATE`: makes the file system that was described.
const FSCONFIG_CMD_CREATE: c_ulong = 6;
/// Both `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`.
const MOUNT_CLOEXEC: c_ulong = 1;

const MOUNT_ATTR_RDONLY: c_ulong = 1;

/// A mount that is attached nowhere: it can be reached through this descriptor alone, and ends with it. Needs Linux 5.2.
pub(super) fn private_mount(kind: &CStr) -> io::Result<OwnedFd> {
    let nothing = ptr::null::<u8>();
    // SAFETY: a text that ends with zero and outlives the call, and an integer.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), MOUNT_CLOEXEC) })?;
    let fd = context.as_raw_fd();
    // SAFETY: this command takes no key, no value and no further number.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, nothing, nothing, 0) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that lives through the call, and integers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, MOUNT_CLOEXEC, MOUNT_ATTR_RDONLY) })
}

/// Bytes of a page.
pub(super) fn page_bytes() -> usize {
    // SAFETY: takes and returns integers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Now, on the clock the events are stamped with.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time of the calling thread, user and system.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call; an unknown clock leaves it as it is.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A bell: rung from any thread, it wakes the one that polls it.
pub(super) fn bell() -> io::Result<OwnedFd> {
    // SAFETY: takes integers; the descriptor it gives is new and ours.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Rings it. It stays rung until [`silence`].
pub(super) fn ring(bell: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight bytes that live through the call. It can only fail when the bell is rung already.
    unsafe { libc::write(bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Silences it until it is rung again.
pub(super) fn silence(bell: &OwnedFd) {
    let mut count = [0; 8];
    // SAFETY: eight bytes that live through the call. It can only fail when the bell is silent.
    unsafe { libc::read(bell.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// One descriptor to wait for.
pub(super) fn interest(fd: &OwnedFd) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Whether the other side of a polled descriptor has gone.
pub(super) fn is_hung_up(polled: &libc::pollfd) -> bool {
    polled.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Waits until one of them is ready, a signal comes, or the time is over.
pub(super) fn poll(waited: &mut [libc::pollfd], timeout_ms: u32) {
    let timeout = c_int::try_from(timeout_ms).unwrap_or(c_int::MAX);
    let length = libc::nfds_t::try_from(waited.len()).unwrap_or(0);
    // SAFETY: pointer and length are those of one slice, which outlives the call. Its failures (a signal) end the wait
    // early, and waking early is harmless.
    unsafe { libc::poll(waited.as_mut_ptr(), length, timeout) };
}

/// What an event lost, or all of the group that it leads, if its kernel counts that. With the read format of [`Attr`] that
/// is the third of three words; in a group these stand behind the number of members.
pub(super) fn read_lost(event: &OwnedFd) -> Option<u64> {
    let mut words = [0_u64; 7];
    // SAFETY: as many bytes as the buffer has, which outlives the call.
    let got = unsafe { libc::read(event.as_raw_fd(), words.as_mut_ptr().cast(), size_of_val(&words)) };
    match (usize::try_from(got), words) {
        (Ok(24), [_count, _id, lost, ..]) => Some(lost),
        (Ok(56), [_members, _count, _id, lost, _clock, _clock_id, clock_lost]) => Some(lost + clock_lost),
        _ => None,
    }
}

/// What may be limited.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// Open descriptors.
    Files,
    /// Locked bytes.
    Locked,
}

/// Raises the soft limit to `wanted`, or as far as the hard one lets us. False when nothing came of it.
pub(super) fn raise(limit: Limit, wanted: u64) -> bool {
    let resource = match limit {
        Limit::Files => libc::RLIMIT_NOFILE,
        Limit::Locked => libc::RLIMIT_MEMLOCK,
    };
    let mut now = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: `now` has the size of an rlimit and is only read when the call says that it has filled it; the second call
    // reads one that lives through it.
    unsafe {
        if libc::getrlimit(resource, now.as_mut_ptr()) != 0 {
            return false;
        }
        let now = now.assume_init();
        let higher = wanted.min(now.rlim_max);
        if higher <= now.rlim_cur {
            return false;
        }
        libc::setrlimit(resource, &libc::rlimit { rlim_cur: higher, rlim_max: now.rlim_max }) == 0
    }
}
