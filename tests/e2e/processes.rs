//! No process survives the one that started it, whatever ends that one.

use std::{env, fs, path::Path, process::Command, thread, time::Duration};

use harness::{
    etcd::{Cluster, Options, Version},
    process::{Process, wait_until},
};

/// Set in the copy of this test that is killed: the file to which it writes the pid of its etcd.
const PID_FILE: &str = "BACKBURN_TEST_PID_FILE";

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_killed_test_leaves_no_etcd_behind() {
    if let Some(pid_file) = env::var_os(PID_FILE) {
        // A thread that ends before the etcd it started must not take it along.
        let start = || Cluster::start(Version::V3_5, 1, &Options::default()).unwrap();
        let cluster = thread::spawn(start).join().unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!(cluster.member(1).unwrap().is_healthy().unwrap());
        fs::write(pid_file, cluster.member(1).unwrap().pid().unwrap().to_string()).unwrap();
        thread::sleep(SOON);
        return;
    }
    let pid_file = env::temp_dir().join(format!("backburn-pid-{}", std::process::id()));
    let mut copy = Command::new(env::current_exe().unwrap());
    copy.args(["--exact", "processes::a_killed_test_leaves_no_etcd_behind"]).env(PID_FILE, &pid_file);
    let copy = Process::spawn("copy of this test", copy).unwrap();
    let etcd: u32 = wait_until("the pid of etcd", SOON, || {
        Ok(fs::read_to_string(&pid_file).ok().and_then(|pid| pid.parse().ok()))
    })
    .unwrap();
    let runs = || Path::new("/proc").join(etcd.to_string()).join("exe").exists();
    assert!(runs());
    copy.kill().unwrap();
    wait_until("etcd to die with its test", SOON, || Ok((!runs()).then_some(()))).unwrap();
    fs::remove_file(pid_file).unwrap();
}
