//! jemalloc's controls, as `mallctl` of its manual has them. The only unsafe code of the agent's own.
#![expect(
    unsafe_code,
    reason = "jemalloc is asked through a C function, and reads its options from a C symbol"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use tikv_jemalloc_sys::mallctl;

/// Options that jemalloc reads before `main`, `MALLOC_CONF` of the environment aside.
///
/// The profiler must be there from the beginning to be switched on later; until then it takes no stack. A sample for each
/// 512 KiB allocated, as Go has it. Two arenas: the agent's threads allocate little at one time, and an arena for each of a
/// node's hundred cores keeps memory that nobody uses. Free pages go back after a second instead of ten.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: &[u8; OPTIONS_BYTES] = OPTIONS_TEXT;

const OPTIONS_TEXT: &[u8; OPTIONS_BYTES] =
    b"prof:true,prof_active:false,lg_prof_sample:19,narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0\0";
const OPTIONS_BYTES: usize = 93;

/// Whether the profiler is there at all.
pub(super) fn is_there() -> bool {
    let (mut value, mut length) = (false, size_of::<bool>());
    // SAFETY: `opt.prof` is a bool that is read; value and length are ours, and outlive the call.
    let code = unsafe {
        mallctl(
            c"opt.prof".as_ptr(),
            ptr::from_mut(&mut value).cast::<c_void>(),
            &raw mut length,
            ptr::null_mut(),
            0,
        )
    };
    code == 0 && value
}

/// Begins or ends taking samples.
///
/// # Errors
/// jemalloc's error number.
pub(super) fn sample(is_on: bool) -> Result<(), c_int> {
    write(c"prof.active", is_on)
}

/// Writes the profile to a file, in jemalloc's own text.
///
/// # Errors
/// jemalloc's error number.
pub(super) fn dump(path: &CStr) -> Result<(), c_int> {
    write::<*const c_char>(c"prof.dump", path.as_ptr())
}

/// Sets what `name` names; the caller knows that it is a `T` there.
fn write<T: Copy>(name: &CStr, mut value: T) -> Result<(), c_int> {
    let length = size_of::<T>();
    // SAFETY: the value is read alone, as long as it says, and only during the call; a path that it points to is the caller's
    // and outlives it. jemalloc refuses a length that is not the control's.
    let code = unsafe {
        mallctl(
            name.as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::from_mut(&mut value).cast::<c_void>(),
            length,
        )
    };
    if code == 0 { Ok(()) } else { Err(code) }
}
