//! Executables and libraries: headers, notes, build information, as if somebody had put such a file on the node.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profile::symbols::elf::{Elf, Mapped};
use profile::symbols::file::Windows;
use profile::symbols::identity;

fuzz_target!(|data: &[u8]| {
    let mut file = Windows::new(data).unwrap();
    let hash = identity::htlhash(&mut file).unwrap();
    assert_eq!(hash.len(), 32);
    let Ok(elf) = Elf::read(&mut file) else { return };
    assert!(elf.segments.len() <= 256 && elf.sections.len() <= 8_192);
    for segment in &elf.segments {
        let span = segment.span;
        if span.length > 0 {
            assert_eq!(span.offset_of(span.address), Some(span.offset));
            assert_eq!(span.address_of(span.offset + span.length - 1), Some(span.address + span.length - 1));
        }
        assert_eq!(span.offset_of(span.address + span.length), None);
    }
    for section in &elf.sections {
        assert!(section.name.len() <= 3 * 64 && section.span.offset + section.span.length <= file.length());
    }
    for at in [0, 1, 0x1000, u64::MAX] {
        let _address = elf.code_address(Mapped { start: at / 2, offset: at }, at);
        let _offset = elf.offset_of(at);
    }
    if let Ok(Some(id)) = identity::build_id(&mut file, &elf) {
        assert!((1..=64).contains(&id.len()));
    }
    if let Ok(Some(id)) = identity::go_build_id(&mut file, &elf) {
        assert!(id.len() <= 256 && id.is_ascii());
    }
    if let Ok(Some(version)) = identity::go_version(&mut file, &elf) {
        assert!(version.len() <= 256 && version.is_ascii());
    }
});
