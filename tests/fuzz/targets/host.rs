//! The texts of /proc: each of them as if the kernel had written these bytes there.
#![no_main]

use std::collections::HashSet;

use collectors::host::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let sockets: HashSet<u64> = [0, 1, 12_345, u64::MAX].into();
    for ticks_per_second in [0, 1, 100, u64::MAX] {
        let _times = parse::stat(&text, ticks_per_second);
    }
    drop((parse::meminfo(&text), parse::pressure(&text), parse::pid_stat(&text), parse::socket_inode(&text)));
    drop((parse::cgroup::paths(&text), parse::cgroup::cpu_stat(&text), parse::cgroup::cpu_max(&text)));
    let _ = (parse::cgroup::limit(&text), parse::cgroup::io_stat(&text), parse::cgroup::blkio(&text));
    assert!(parse::diskstats(&text, |_| true).len() <= parse::DISKS_MAX);
    assert!(parse::established(&text, &sockets) <= u64::try_from(text.lines().count()).unwrap());
});
