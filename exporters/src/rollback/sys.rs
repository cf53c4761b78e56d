//! The one system call that tokio does not wrap: a signal to a process group.

#![expect(unsafe_code, reason = "kill(2) on a group has no safe wrapper in the crates we have")]

/// Ends a process group that this process made. Best effort: a group that is gone already is fine.
pub(crate) fn kill_group(group: u32) {
    let Ok(group) = i32::try_from(group) else { return };
    // Group 0 is our own, 1 would be everybody's: never those.
    if group > 1 {
        // SAFETY: kill takes two integers and touches no memory of ours. The group id is the pid of a
        // child that leads its own group and that the caller has not reaped, so it cannot be anybody else's.
        let _gone = unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}
