//! No process survives the one that started it, whatever ends that one.

use std::{env, fs, path::Path, process::Command, thread, time::Duration};

use harness::{
    etcd::{Cluster, Options, Version},
    process::{Process, wait_until},
};

/// Set in the copy of this test that is killed: the folder for its cluster and for the pid of its etcd.
const FOLDER: &str = "BACKBURN_TEST_FOLDER";

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_killed_test_leaves_no_etcd_behind() {
    if let Some(folder) = env::var_os(FOLDER) {
        let dir = Path::new(&folder);
        // A thread that ends before the etcd it started must not take it along.
        let options = Options { dir: Some(dir.to_owned()), ..Options::default() };
        let cluster =
            thread::spawn(move || Cluster::start(Version::V3_5, 1, &options).unwrap()).join().unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!(cluster.member(1).unwrap().is_healthy().unwrap());
        fs::write(dir.join("pid"), cluster.member(1).unwrap().pid().unwrap().to_string()).unwrap();
        thread::sleep(SOON);
        return;
    }
    let dir = env::temp_dir().join(format!("backburn-killed-{}", std::process::id()));
    let mut copy = Command::new(env::current_exe().unwrap());
    copy.args(["--exact", "processes::a_killed_test_leaves_no_etcd_behind"]).env(FOLDER, &dir);
    let copy = Process::spawn("copy of this test", copy).unwrap();
    let etcd: u32 = wait_until("the pid of etcd", SOON, || {
        Ok(fs::read_to_string(dir.join("pid")).ok().and_then(|pid| pid.parse().ok()))
    })
    .unwrap();
    let runs = || Path::new("/proc").join(etcd.to_string()).join("exe").exists();
    assert!(runs());
    copy.kill().unwrap();
    wait_until("etcd to die with its test", SOON, || Ok((!runs()).then_some(()))).unwrap();
    fs::remove_dir_all(dir).unwrap();
}
