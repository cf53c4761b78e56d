//! Our samples of an etcd against its own profiles, taken in turns.

use std::time::Duration;

use profile::perf::attr::Hz;

use crate::etcd::{Agreement, Comparison, Etcd, Observed};
use crate::pairs::Level;

/// Short, for a test: the figure for five minutes is what `examples/go_agreement.rs` prints.
const SHORT: Comparison =
    Comparison { rounds: 8, theirs_s: 8, ours: Duration::from_secs(3), hz: Hz::TRIGGERED };

fn check(version: &str) {
    let etcd = Etcd::start(version);
    let observed = Observed::of(&etcd, "m", SHORT);
    // Who may not see the kernel has samples of other moments than Go's own, which count its time too.
    let is_kernel_seen = observed.ours.iter().any(|one| one.naming.kernel > 0);
    let margin = if is_kernel_seen { 4.0 } else { 12.0 };
    for level in [Level::Functions, Level::Code] {
        let Agreement { mended, without_sysmon, plain, ceiling } = observed.agreement(level);
        println!(
            "etcd {version} {level:?}: ours {mended}, without sysmon {without_sysmon}, by frame pointers {plain}, Go against Go {ceiling}"
        );
        let shown: Vec<_> = observed.strangers(level).into_iter().take(12).collect();
        println!("  not in Go's: {shown:?}");
        assert!(mended.all > 300, "{mended}: too few to mean anything");
        // The same code is seen as often by both; a second of Go's has a fifth as many samples as one of ours.
        assert!(
            without_sysmon.percent() > ceiling.percent() - margin,
            "{without_sysmon} of ours, {ceiling} of Go's own\n{shown:#?}"
        );
        assert!(
            mended.percent() > plain.percent() + 10.0,
            "{mended} of ours, {plain} by frame pointers alone"
        );
    }
    for one in &observed.ours {
        println!("  {:?}\n  {:?}, {} ns", one.unwinding, one.naming, one.naming_ns);
        assert_eq!(one.session.lost, 0);
        // Some of its assembly uses the frame pointer for something else.
        assert!(
            (one.unwinding.broken + one.unwinding.not_code) * 50 < one.unwinding.go,
            "{:?}",
            one.unwinding
        );
        // An etcd of the set-up is all Go: but for the kernel's page, each frame has a name.
        assert!(one.naming.user_named * 1_000 >= one.naming.user * 990, "{:?}", one.naming);
    }
}

#[test]
fn the_oldest_etcd_has_the_callers_that_go_sees() {
    check("3.4");
}

#[test]
fn the_newest_etcd_has_the_callers_that_go_sees() {
    check("3.7");
}
