//! Stories of files that are opened, replaced and written to.

#[path = "../../tests/shared/copies.rs"]
mod copies;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{env, fs, process};

use super::find::{Way, is_the_same};
use super::*;
use crate::perf::modules::Modules;

fn of(path: &Path, identity: Identity) -> Arc<Module> {
    Modules::default().intern(process::id(), identity, path.as_os_str().as_encoded_bytes()).unwrap()
}

fn inode(path: &Path) -> Identity {
    let is = fs::metadata(path).unwrap();
    Identity::Inode { major: libc::major(is.dev()), minor: libc::minor(is.dev()), inode: is.ino() }
}

fn id(hex: &str) -> Identity {
    let mut bytes = [0; 20];
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    Identity::BuildId(20, bytes)
}

/// A copy of a program, whose file can be changed.
fn copied(program: impl AsRef<Path>, name: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("binaries-{name}-{}", process::id()));
    copies::copy(program.as_ref(), &path);
    path
}

fn copy(name: &str) -> PathBuf {
    copied(env::current_exe().unwrap(), name)
}

#[test]
fn a_file_is_opened_once_for_all_who_ask() {
    let (binaries, path) = (Binaries::default(), env::current_exe().unwrap());
    let module = of(&path, inode(&path));
    let first = binaries.open(&module, process::id()).unwrap();
    assert!(Arc::ptr_eq(&first, &binaries.clone().open(&module, 1).unwrap()));
    assert!(!first.is_go() && first.is_as_it_was() && binaries.len() == 1);
    assert!(first.go().is_none());
    let code = first
        .code_at(first.elf.segments.iter().find(|one| one.is_executable()).unwrap().span.offset)
        .unwrap();
    assert_eq!(first.address_of(code.offset + 16), Some(code.address + 16));
}

#[test]
fn another_file_of_that_name_is_another_file() {
    let (binaries, path) = (Binaries::default(), copy("other"));
    let open = |identity| binaries.open(&of(&path, identity), process::id());
    let known = open(inode(&path)).unwrap();
    assert_eq!(open(Identity::Inode { major: 0, minor: 0, inode: 1 }).unwrap_err(), Missing::Replaced);
    assert_eq!(open(id(&"ab".repeat(20))).unwrap_err(), Missing::Replaced);
    if known.ids.build_id.len() == 40 {
        assert_eq!(open(id(&known.ids.build_id)).unwrap().ids, known.ids);
    }
    assert_eq!(open(Identity::BuildId(0, [0; 20])).unwrap_err(), Missing::Replaced);
    fs::remove_file(path).unwrap();
}

#[test]
fn a_file_that_was_written_to_is_read_anew() {
    let (binaries, path) = (Binaries::default(), copy("written"));
    let module = of(&path, inode(&path));
    let before = binaries.open(&module, process::id()).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(!before.is_as_it_was());
    let after = binaries.open(&module, process::id());
    assert!(after.is_err() || !Arc::ptr_eq(&before, &after.unwrap()));
    fs::remove_file(path).unwrap();
}

#[test]
fn what_cannot_be_had_says_why() {
    let binaries = Binaries::default();
    let check = |path: &str, expected: Missing| {
        let module = of(Path::new(path), Identity::Inode { major: 0, minor: 0, inode: 1 });
        assert_eq!(binaries.open(&module, process::id()).unwrap_err(), expected, "{path}");
    };
    check("//anon", Missing::Memory);
    check("[vdso]", Missing::Memory);
    check("/nonexistent/program", Missing::Gone);
    check("/nonexistent/program (deleted)", Missing::Gone);
    check("/dev/null", Missing::Unreadable);
    let script = format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    check(&script, Missing::Unreadable);
}

#[test]
fn a_program_that_was_removed_is_opened_by_what_its_process_holds() {
    let path = copied("/bin/sleep", "removed");
    let mut child = process::Command::new(&path).arg("60").spawn().unwrap();
    let identity = inode(&path);
    fs::remove_file(&path).unwrap();
    let deleted = PathBuf::from(format!("{} (deleted)", path.display()));
    let opened = Binaries::default().open(&of(&deleted, identity), child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(opened.is_ok(), "{opened:?}");
}

#[test]
fn a_program_that_was_replaced_is_opened_by_what_its_process_holds() {
    let path = copied("/bin/sleep", "upgraded");
    let mut child = process::Command::new(&path).arg("60").spawn().unwrap();
    let (module, number) = (of(&path, inode(&path)), fs::metadata(&path).unwrap().ino());
    let next = copied("/bin/true", "next");
    fs::rename(&next, &path).unwrap();
    let binaries = Binaries::default();
    let file = binaries.file(&module, child.id());
    let opened = binaries.open(&module, child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let is = |file: File| file.metadata().unwrap().ino();
    assert_eq!(is(file.unwrap()), number);
    assert!(opened.is_ok(), "{opened:?}");
    // From here on there is nobody who holds it but us.
    assert_eq!(is(binaries.file(&module, child.id()).unwrap()), number);
    fs::remove_file(path).unwrap();
}

#[test]
fn a_name_of_ours_is_no_proof_of_what_somebody_else_maps() {
    let path = copied("/bin/true", "named");
    let file = fs::metadata(&path).unwrap();
    let is = |told: &Identity, way| is_the_same(told, (file.dev(), file.ino()), None, way);
    let elsewhere = Identity::Inode { major: 4095, minor: 1, inode: file.ino() };
    assert!(is(&elsewhere, Way::Held) && !is(&elsewhere, Way::Named) && is(&inode(&path), Way::Named));
    fs::remove_file(path).unwrap();
}

#[test]
fn files_that_nobody_asks_for_are_closed() {
    let binaries = Binaries::default();
    let folder = env::temp_dir().join(format!("binaries-many-{}", process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut held = Vec::new();
    for at in 0..BINARIES_MAX + 10 {
        let path = folder.join(at.to_string());
        fs::copy("/bin/true", &path).unwrap();
        held.push(binaries.open(&of(&path, inode(&path)), process::id()).unwrap());
        // The first one is asked for again and again.
        let first = folder.join("0");
        let again = binaries.open(&of(&first, inode(&first)), process::id()).unwrap();
        assert!(Arc::ptr_eq(&again, &held[0]));
        assert!(binaries.len() <= BINARIES_MAX && binaries.table().bytes() <= BYTES_MAX);
    }
    fs::remove_dir_all(folder).unwrap();
}
