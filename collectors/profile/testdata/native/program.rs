//! Generic code, closures and inlining across crates, as Rust's own compiler describes them.

use std::collections::HashMap;

trait Weigh {
    fn weigh(&self) -> u64;
}

struct Word<'a>(&'a str);

impl Weigh for Word<'_> {
    #[inline(never)]
    fn weigh(&self) -> u64 {
        self.0.bytes().map(u64::from).fold(7, |sum, byte| sum.rotate_left(5) ^ byte)
    }
}

#[inline(always)]
fn twice<W: Weigh>(what: &W) -> u64 {
    what.weigh().wrapping_add(what.weigh())
}

#[inline(never)]
fn count<'a>(words: &[&'a str]) -> HashMap<&'a str, u64> {
    let mut counts = HashMap::new();
    for word in words {
        *counts.entry(*word).or_insert(0) += twice(&Word(word));
    }
    counts
}

fn main() {
    let text: Vec<String> = std::env::args().chain((0..50).map(|at| format!("word{}", at % 7))).collect();
    let words: Vec<&str> = text.iter().map(String::as_str).collect();
    let mut counts: Vec<_> = count(&words).into_iter().collect();
    counts.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
    println!("{counts:?}");
}
