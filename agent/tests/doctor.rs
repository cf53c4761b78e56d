//! `agent doctor` where something is missing: as nobody, with capabilities withheld, in a namespace, behind a filter. Each
//! costs its own part and is named with its cure, and one's own processes can be profiled all the same.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a story that cannot go on has failed"
)]

#[path = "../../collectors/profile/tests/shared/copies.rs"]
mod copies;
#[path = "../../collectors/profile/tests/shared/kernel.rs"]
mod kernel;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use kernel::has_clocks;

const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// A folder that everybody may look into, as long as the story lasts.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs the doctor under some other command, or a copy of it.
fn run(under: &[&str], agent: &Path, output: &str) -> Output {
    let words: Vec<&OsStr> = under.iter().map(OsStr::new).chain([agent.as_os_str()]).collect();
    let (program, arguments) = words.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).args(["doctor", "--output", output]).current_dir("/");
    command.output().expect("install util-linux")
}

/// The findings, and the exit code.
fn findings(under: &[&str]) -> (Vec<Value>, i32) {
    findings_of(under, AGENT.as_ref())
}

fn findings_of(under: &[&str], agent: &Path) -> (Vec<Value>, i32) {
    let output = run(under, agent, "json");
    let said = String::from_utf8_lossy(&output.stdout);
    let told: Value = serde_json::from_str(&said).unwrap_or_else(|error| {
        let errors = String::from_utf8_lossy(&output.stderr);
        unreachable!("{under:?}: {error}: {said} {errors}")
    });
    assert_eq!(told["schema_version"], 1);
    let code = output.status.code().unwrap();
    assert_eq!(told["is_well"], code == 0, "{told}");
    (told["findings"].as_array().unwrap().clone(), code)
}

fn finding<'a>(findings: &'a [Value], part: &str) -> &'a Value {
    findings.iter().find(|finding| finding["part"] == part).unwrap()
}

/// This part is so, and the words are in cause and cure.
fn check(findings: &[Value], part: &str, state: &str, cause: &str, cure: &str) {
    let finding = finding(findings, part);
    assert_eq!(finding["state"], state, "{findings:#?}");
    assert!(finding["cause"].as_str().unwrap().contains(cause), "{finding}");
    assert!(finding["cure"].as_str().unwrap().contains(cure), "{finding}");
}

/// Without the privilege there is nothing to withhold.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & (1 << 38 | 1 << 19 | 1 << 6) != 0
}

fn paranoid() -> i32 {
    fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap().trim().parse().unwrap()
}

/// Own processes can be profiled, if not with the kernel's part of their stacks.
fn own_is_there(findings: &[Value]) {
    if paranoid() <= 2 {
        assert_ne!(finding(findings, "own_cpu")["state"], "missing", "{findings:#?}");
    }
}

#[test]
fn root_lacks_nothing_that_the_daemon_needs() {
    if !is_root() {
        return;
    }
    let (all, code) = findings(&[]);
    for part in ["node_cpu", "own_cpu", "kernel_names", "other_processes", "other_files", "kernel"] {
        check(&all, part, "ok", "", "");
    }
    let lacking = all.iter().filter(|finding| finding["is_default"] == true && finding["state"] != "ok");
    assert_eq!(code == 0, lacking.count() == 0, "{all:#?}");
    let table = run(&[], AGENT.as_ref(), "table");
    let said = String::from_utf8_lossy(&table.stdout);
    assert!(said.starts_with("PART             STATE"), "{said}");
    assert!(said.contains("\nnode_cpu         ok"), "{said}");
}

#[test]
fn nobody_keeps_what_is_ones_own() {
    let as_nobody: &[&str] = match is_root() {
        true => &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        false => &[],
    };
    let folder = folder();
    let copy = folder.path().join("agent");
    copies::copy(Path::new(AGENT), &copy);
    let (all, code) = findings_of(as_nobody, &copy);
    assert_eq!(code, 1);
    let level = paranoid();
    check(&all, "node_cpu", "missing", &format!("perf_event_paranoid is {level}"), "CAP_PERFMON");
    check(&all, "other_files", "degraded", "dac_read_search is missing", "CAP_DAC_READ_SEARCH");
    check(&all, "other_processes", "degraded", "sys_ptrace is missing", "CAP_SYS_PTRACE");
    own_is_there(&all);
    if level == 2 {
        check(&all, "own_cpu", "degraded", "without the kernel's part", "perf_event_paranoid to 1");
        check(&all, "kernel_names", "degraded", "syslog is missing", "CAP_SYSLOG");
    }
}

#[test]
fn each_capability_that_is_withheld_costs_its_part() {
    if !is_root() {
        return;
    }
    let without = |names: &str| findings(&["setpriv", &format!("--bounding-set={names}")]);
    let (all, code) = without("-perfmon,-sys_admin");
    check(&all, "node_cpu", "missing", "capability perfmon is missing", "bars CAP_PERFMON");
    check(&all, "other_processes", "ok", "", "");
    own_is_there(&all);
    assert_eq!(code, 1);
    let (all, code) = without("-syslog");
    let hidden = if paranoid() > 1 { "degraded" } else { "ok" };
    check(&all, "kernel_names", hidden, "", if paranoid() > 1 { "bars CAP_SYSLOG" } else { "" });
    check(&all, "node_cpu", "ok", "", "");
    assert_eq!(code == 1, paranoid() > 1 || findings(&[]).1 == 1);
    let (all, _) = without("-dac_read_search,-dac_override");
    check(&all, "other_files", "degraded", "dac_read_search", "bars CAP_DAC_READ_SEARCH");
    check(&all, "own_cpu", "ok", "", "");
    let (all, _) = without("-sys_ptrace");
    check(&all, "heap", "degraded", "sys_ptrace is missing", "bars CAP_SYS_PTRACE");
    own_is_there(&all);
}

#[test]
fn without_tracefs_the_kernels_names_say_what_for() {
    // What mounts it is SYS_ADMIN; without that and with none mounted, another way is left.
    let is_mounted = fs::read_dir("/sys/kernel/tracing").is_ok_and(|mut entries| entries.next().is_some());
    if !is_root() || is_mounted {
        return;
    }
    let (all, _) = findings(&["setpriv", "--bounding-set=-sys_admin,-syslog"]);
    // Before Linux 6.13 tasks have no clocks: others pay for it too.
    let cause = if has_clocks() { "neither tracefs nor names" } else { "tracefs is not mounted" };
    check(&all, "off_cpu", "degraded", cause, "mount -t tracefs");
    let (all, _) = findings(&["setpriv", "--bounding-set=-sys_admin"]);
    if has_clocks() {
        check(&all, "off_cpu", "ok", "clock", "");
    }
    check(&all, "node_cpu", "ok", "", "");
}

#[test]
fn a_pid_namespace_hides_the_node() {
    if !is_root() {
        return;
    }
    let (all, code) = findings(&["unshare", "--pid", "--fork", "--mount-proc"]);
    check(&all, "host_pids", "degraded", "not in the host's pid namespace", "hostPID: true");
    own_is_there(&all);
    assert_eq!(code, 1);
}

/// Forbids one system call to what it starts.
const FILTER: &str = r#"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <errno.h>
int main(int argc, char **argv) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_perf_event_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 99;
    execv(argv[1], argv + 1);
    return 98;
}
"#;

#[test]
fn a_filter_is_not_taken_for_a_missing_capability() {
    let folder = folder();
    let (source, program) = (folder.path().join("filter.c"), folder.path().join("filter"));
    fs::write(&source, FILTER).unwrap();
    let built = Command::new("cc").arg("-o").arg(&program).arg(&source).status();
    assert!(built.expect("install a C compiler: cc").success());
    let (all, code) = findings(&[program.to_str().unwrap()]);
    check(&all, "node_cpu", "missing", "seccomp filter", "seccomp profile");
    check(&all, "own_cpu", "missing", "seccomp filter", "seccomp profile");
    assert_eq!(code, 1);
}
