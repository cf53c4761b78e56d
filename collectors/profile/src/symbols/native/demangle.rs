//! Names as people write them: Rust's two ways of mangling, and that of C++.
//!
//! Owns the choice among them and the bound on what comes out. Refuses to fail: what no demangler knows stays as it is.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Mangled names of generic code reach a few KiB; what is longer is not demangled, and cut.
pub(super) const MANGLED_BYTES_MAX: usize = 8 << 10;
/// A few bytes of mangled text can stand for a name that fills the memory, by references to itself.
const NAME_BYTES_MAX: usize = 4 << 10;
/// Nested types of real names stay below forty; each level is a few frames of our stack.
const DEPTH_MAX: u32 = 96;
/// Hexadecimal digits of the hash at the end of Rust's older names.
const HASH_DIGITS: usize = 16;

/// A writer that takes so much and then refuses.
struct Bounded {
    text: String,
    is_cut: bool,
}

impl Bounded {
    /// Takes as much as there is room for.
    fn push(&mut self, piece: &str) {
        let room = NAME_BYTES_MAX.saturating_sub(self.text.len());
        self.text.push_str(prefix(piece, room));
        self.is_cut |= piece.len() > room;
    }
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.push(piece);
        if self.is_cut { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The name, demangled if it is mangled, and never longer than 4,099 bytes: where it is cut it ends in an ellipsis.
pub(super) fn demangle(name: &str) -> String {
    let short = prefix(name, MANGLED_BYTES_MAX);
    let mut out = Bounded { text: String::new(), is_cut: false };
    let outcome = match short.len() == name.len() {
        true if is_rust(name) => rust(name, &mut out),
        true if name.starts_with("_Z") || name.starts_with("__Z") => cpp(name, &mut out),
        _ => Err(fmt::Error),
    };
    // A name of nothing but a hash leaves nothing.
    if (outcome.is_err() && !out.is_cut) || out.text.is_empty() {
        out.text.clear();
        out.push(name);
    }
    if out.is_cut {
        out.text.push('…');
    }
    out.text
}

fn prefix(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Rust's older names look like those of C++ but for the hash at their end.
fn is_rust(name: &str) -> bool {
    if name.starts_with("_R") {
        return true;
    }
    let hash = name.rsplit_once("17h").filter(|_| name.starts_with("_ZN")).map(|(_, hash)| hash.as_bytes());
    hash.is_some_and(|hash| {
        let (digits, rest) = hash.split_at(HASH_DIGITS.min(hash.len()));
        digits.len() == HASH_DIGITS && digits.iter().all(u8::is_ascii_hexdigit) && rest.starts_with(b"E")
    })
}

fn rust(name: &str, out: &mut Bounded) -> fmt::Result {
    let demangled = rustc_demangle::try_demangle(name).map_err(|_| fmt::Error)?;
    // Without the hash, which is another one in each build.
    write!(out, "{demangled:#}")
}

fn cpp(name: &str, out: &mut Bounded) -> fmt::Result {
    let options = ParseOptions::default().recursion_limit(DEPTH_MAX);
    let symbol = Symbol::new_with_options(name, &options).map_err(|_| fmt::Error)?;
    symbol.structured_demangle(out, &DemangleOptions::default().recursion_limit(DEPTH_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mangled: &str, expected: &str) {
        assert_eq!(demangle(mangled), expected);
    }

    #[test]
    fn rust_names_lose_their_hash() {
        check("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad");
        check("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar");
        check("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE.llvm.123", "core::fmt::Formatter::pad");
    }

    #[test]
    fn cpp_names_keep_their_parameters() {
        check("_ZN3foo3barEi", "foo::bar(int)");
        check(
            "_ZNSt6vectorIiSaIiEE9push_backERKi",
            "std::vector<int, std::allocator<int> >::push_back(int const&)",
        );
    }

    #[test]
    fn others_stay_as_they_are() {
        for name in ["main", "", "_Z", "_R", "_ZN", "__libc_start_main", "_ZN17h0123456789abcdefE"] {
            check(name, name);
        }
    }

    #[test]
    fn a_name_that_doubles_itself_is_cut() {
        // A pair of pairs of pairs of …: 2^60 of them.
        let mut name = "_Z1f1AIS_S_E".to_owned();
        for at in 0..30 {
            let reference =
                if at < 10 { format!("S{at}_") } else { format!("S{}_", char::from(b'A' + at - 10)) };
            name.push_str(&format!("IS{}{reference}E", &reference[1..].trim_end_matches('_')));
        }
        for hostile in [
            name,
            format!("_Z1f{}v", "P".repeat(5_000)),
            format!("_R{}", "I".repeat(8_000)),
            "é".repeat(9_000),
        ] {
            let out = demangle(&hostile);
            assert!(out.len() <= NAME_BYTES_MAX + 3, "{}", out.len());
        }
        assert!(demangle(&"x".repeat(5_000)).ends_with("x…"));
    }
}
