//! Bytes that are asked for values. An exhausted seed gives zeros, so every input means something.

/// The bytes that are left.
#[derive(Debug)]
pub struct Seed<'a> {
    rest: &'a [u8],
}

/// Texts that parsers and processors look for, among some that they do not.
const WORDS: [&str; 24] = [
    "",
    "a",
    "m1",
    "m2",
    "m3",
    "etcd",
    "checkout",
    "v1",
    "v2",
    "range",
    "put",
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Lease/LeaseGrant",
    "read_only_range",
    "127.0.0.1:40001",
    "10.0.0.9:2379",
    "agreement among raft nodes before linearized reading",
    "apply request took too long",
    "http.route",
    "unavailable",
    "key 12 bytes, hash 1f2e3d4c",
    "\u{0}\u{7f}\u{2028}",
    "žluťoučký 🦀",
    "</script><!--",
];

impl<'a> Seed<'a> {
    /// All of the input.
    #[must_use]
    pub fn new(rest: &'a [u8]) -> Seed<'a> {
        Seed { rest }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One in eight.
    pub fn rarely(&mut self) -> bool {
        self.byte() % 8 == 7
    }

    /// Any number; small ones and edges come often.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..128 => u64::from(byte),
            byte @ 128..160 => u64::from(self.byte()) << (byte - 128),
            160..176 => u64::MAX - u64::from(self.byte()),
            176..184 => i64::MAX.cast_unsigned().wrapping_add(u64::from(self.byte())),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    /// Any float, those without order among them.
    #[expect(clippy::cast_precision_loss, reason = "any value will do")]
    pub fn float(&mut self) -> f64 {
        match self.byte() {
            byte @ 0..128 => f64::from(byte) / 16.0,
            128..200 => self.number() as f64,
            200..212 => {
                self.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE, f64::MAX])
            }
            212..224 => f64::from_bits(model::scrape::STALE_BITS),
            224..232 => f64::from_bits(model::scrape::ABSENT_BITS),
            _ => f64::from_bits(self.number()),
        }
    }

    /// A known word, or bytes as they come.
    pub fn text(&mut self) -> String {
        if self.rarely() {
            let length = self.below(64).min(self.rest.len());
            let (raw, rest) = self.rest.split_at(length);
            self.rest = rest;
            return String::from_utf8_lossy(raw).into_owned();
        }
        self.pick(&WORDS).to_owned()
    }

    /// So many of something.
    pub fn some<T>(&mut self, end: usize, mut one: impl FnMut(&mut Seed<'a>) -> T) -> Vec<T> {
        let length = self.below(end);
        (0..length).map(|_| one(self)).collect()
    }

    /// Something or nothing.
    pub fn maybe<T>(&mut self, one: impl FnOnce(&mut Seed<'a>) -> T) -> Option<T> {
        (self.byte() % 2 == 1).then(|| one(self))
    }
}
