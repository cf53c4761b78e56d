//! Code that the kernel makes while it is watched: a program of BPF, loaded and let go of.

use std::process::Command;

use profile::binaries::Binaries;
use profile::perf::attr::Hz;
use profile::perf::session::{KernelCode, Plan, Session};
use profile::perf::target::Target;
use profile::sampler::Sampler;

use crate::program::{built, is_node_ours, until};

/// Loads `return 0`, and ends, with which it is gone. Prints the error's number where it may not.
const LOADER: &str = r#"
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    struct bpf_insn code[] = {{.code = 0xb7, .dst_reg = 0, .imm = 0}, {.code = 0x95}};
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attr.insns = (unsigned long)code;
    attr.insn_cnt = 2;
    attr.license = (unsigned long)"GPL";
    strcpy(attr.prog_name, "told_story");
    int file = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
    if (file < 0) return errno;
    close(file);
    return 0;
}
"#;

#[test]
fn code_that_the_kernel_makes_and_lets_go_of_is_told() {
    if !is_node_ours() {
        return;
    }
    let (sampler, harvest) = Sampler::new(Binaries::default());
    let session = Session::start(&Plan::new(Target::Node, Hz::STEADY), sampler).unwrap();
    let status = Command::new(built("loader", LOADER)).status().unwrap();
    assert_eq!(status.code(), Some(0), "BPF programs may not be loaded here, by this error's number");
    let mut told: Vec<KernelCode> = Vec::new();
    until("the program comes and goes", || {
        told.extend(harvest.take().kernel_code);
        let is_ours =
            |code: &&KernelCode| code.name.as_deref().is_some_and(|name| name.ends_with(b"_told_story"));
        let made = told.iter().find(is_ours).cloned();
        made.is_some_and(|made| {
            told.contains(&KernelCode { name: None, ..made.clone() }) && made.address > 0 && made.bytes > 0
        })
    });
    drop(session.stop());
}
