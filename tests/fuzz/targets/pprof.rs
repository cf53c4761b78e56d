//! Go profiles: decoded, counted by function, written as files for people. Plain bytes; gzip only stands in the fuzzer's way.
#![no_main]

use std::sync::Arc;

use exporters::files;
use libfuzzer_sys::fuzz_target;
use model::profile::{ProfileKind, ProfileSet};
use model::time::Stamp;
use profile::{counts, gopprof};

fuzz_target!(|data: &[u8]| {
    let mut set = ProfileSet::default();
    let mut all = Vec::new();
    // What a person opens: wider bounds, and every kind that is in it.
    for (stacks, _) in gopprof::decode_file(data).unwrap_or_default() {
        assert!(counts::of(&stacks).functions.len() <= model::profile::FUNCTIONS_MAX);
        let _ = files::folded::encode(&stacks);
    }
    for kind in
        [ProfileKind::Cpu, ProfileKind::OffCpu, ProfileKind::Heap, ProfileKind::Alloc, ProfileKind::Goroutine]
    {
        let Ok((mut stacks, _)) = gopprof::decode(data, kind, Stamp::default()) else { continue };
        let counted = counts::of(&stacks);
        assert!(counted.functions.len() <= model::profile::FUNCTIONS_MAX);
        let known = |function: u32| usize::try_from(function).unwrap() < counted.functions.len();
        assert!(counted.edges.iter().all(|(from, to, _)| known(*from) && known(*to)));
        // Without the received bytes, what we write ourselves must be a profile again.
        stacks.pprof = Vec::new();
        let written = files::pprof::encode(&stacks);
        let (again, rejects) = gopprof::decode(&written, kind, Stamp::default()).expect("our own profile");
        assert_eq!(rejects, gopprof::Rejects::default());
        assert_eq!(again.samples.len(), stacks.samples.len());
        set.counts.push(counted);
        all.push(stacks);
    }
    set.stacks = Arc::new(all);
    let files = files::render(Some(&set), &set, "</script>").expect("plain data can always be written");
    let page = files.iter().find(|file| file.name == "flame.html").expect("always there");
    assert!(std::str::from_utf8(&page.bytes).is_ok());
});
