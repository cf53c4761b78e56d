//! What threads waited for, by the kernel's functions in their stacks.
//!
//! Owns the list of those functions. It is of the kernel's sources from 5.4 to 6.18; a name that a later one gives up makes
//! a wait for a device look like any other, and nothing else. Refuses to tell more than three kinds apart: everything else
//! is said by the stack itself.

use model::profile::{FrameKind, StackSample, Stacks};

use crate::perf::session::WaitKind;
use crate::perf::statistics::Waited;

/// The scheduler itself, and what it calls when a thread leaves.
const SCHEDULER: [&str; 6] = [
    "__schedule",
    "schedule",
    "schedule_timeout",
    "context_switch",
    "prepare_task_switch",
    "preempt_schedule_common",
];
/// Of sampling.
const PERF: &str = "perf_";
/// Who calls the scheduler for a thread that could have run on.
const COULD_RUN: [&str; 8] = [
    "preempt_schedule",
    "__cond_resched",
    "_cond_resched",
    "exit_to_user_mode",
    "prepare_exit_to_usermode",
    "irqentry_exit",
    "do_sched_yield",
    "__do_sys_sched_yield",
];
/// Functions that wait for a device, or are called to make data safe on one: whatever they wait for, it is that.
const FOR_DEVICE: [&str; 23] = [
    "io_schedule",
    "folio_wait_",
    "wait_on_page_",
    "__wait_on_buffer",
    "__bread",
    "submit_bio_wait",
    "blk_execute_rq",
    "blk_mq_get_tag",
    "rq_qos_wait",
    "wbt_wait",
    "balance_dirty_pages",
    "filemap_fdatawait",
    "__filemap_fdatawait",
    "file_write_and_wait_range",
    "vfs_fsync",
    "do_fsync",
    "ksys_sync",
    "sync_filesystem",
    "jbd2_",
    "xlog_",
    "xfs_log_",
    "btrfs_sync_",
    "nfs_wait_",
];

/// The time of all samples, whose values are nanoseconds, by what for. A stack without names of the kernel is asleep.
#[must_use]
pub fn what_for(stacks: &Stacks) -> Waited {
    let mut waited = Waited::default();
    for sample in &stacks.samples {
        waited.add(kind(names(stacks, sample)), u64::try_from(sample.value).unwrap_or(0));
    }
    waited
}

/// The kernel's functions in a stack, leaf first.
fn names<'s>(stacks: &'s Stacks, sample: &'s StackSample) -> impl Iterator<Item = &'s str> + Clone {
    let frames = sample.frames.iter().map_while(|at| stacks.frames.get(usize::try_from(*at).ok()?));
    let kernel = frames.take_while(|frame| frame.kind == FrameKind::Kernel);
    let functions = kernel.filter_map(|frame| stacks.functions.get(usize::try_from(frame.function).ok()?));
    functions.map(|function| &*function.name)
}

fn kind<'s>(mut names: impl Iterator<Item = &'s str> + Clone) -> WaitKind {
    let begins_as_one_of = |list: &[&str], name: &str| list.iter().any(|known| name.starts_with(known));
    let is_scheduler = |name: &str| SCHEDULER.contains(&name) || name.starts_with(PERF);
    let caller = names.clone().find(|name| !is_scheduler(name));
    if caller.is_some_and(|name| begins_as_one_of(&COULD_RUN, name)) {
        WaitKind::Preempted
    } else if names.any(|name| begins_as_one_of(&FOR_DEVICE, name)) {
        WaitKind::Uninterruptible
    } else {
        WaitKind::Sleeping
    }
}

#[cfg(test)]
mod tests {
    use super::{WaitKind, kind};

    #[test]
    fn who_called_the_scheduler_says_what_for() {
        let check = |stack: &str, expected: WaitKind| {
            assert_eq!(kind(stack.split_whitespace()), expected, "{stack}");
        };
        // As Linux 6.18 has them.
        check(
            "__schedule schedule exit_to_user_mode_loop do_syscall_64 entry_SYSCALL_64_after_hwframe",
            WaitKind::Preempted,
        );
        check("__schedule preempt_schedule_irq asm_sysvec_apic_timer_interrupt", WaitKind::Preempted);
        check("__schedule schedule do_sched_yield __x64_sys_sched_yield", WaitKind::Preempted);
        check("__schedule __cond_resched folio_wait_writeback vfs_fsync_range", WaitKind::Preempted);
        check(
            "__schedule schedule io_schedule folio_wait_bit_common filemap_fault",
            WaitKind::Uninterruptible,
        );
        check(
            "__schedule schedule jbd2_log_wait_commit ext4_sync_file do_fsync __x64_sys_fdatasync",
            WaitKind::Uninterruptible,
        );
        check("__schedule schedule schedule_timeout io_schedule_timeout", WaitKind::Uninterruptible);
        check("__schedule schedule futex_do_wait __futex_wait do_futex", WaitKind::Sleeping);
        check(
            "perf_trace_sched_switch __schedule schedule do_nanosleep hrtimer_nanosleep",
            WaitKind::Sleeping,
        );
        // It sleeps for something that it does on its way back to the program.
        check("__schedule schedule fuse_wait task_work_run exit_to_user_mode_loop", WaitKind::Sleeping);
        check("", WaitKind::Sleeping);
        check("[kernel]", WaitKind::Sleeping);
    }
}
