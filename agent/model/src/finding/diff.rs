//! What a comparison of two profiles comes to. Owns the words for why a function is listed.

use serde::{Deserialize, Serialize};

use crate::profile::{Baseline, ProfileKind};

/// What changed between two profiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileDiff {
    /// The capture request.
    pub request: u64,
    /// The regression that asked for it.
    pub finding: u64,
    /// Member.
    pub target: String,
    /// Kind.
    pub kind: ProfileKind,
    /// How CPU time was taken, as [`ProfileSet::engine`](crate::profile::ProfileSet) has it.
    pub engine: String,
    /// Unit, UCUM.
    pub unit: String,
    /// What the "before" is.
    pub baseline: Baseline,
    /// Seconds between before and after.
    pub baseline_age_s: u64,
    /// Value per second before (CPU) or in total (heap).
    pub before_total: f64,
    /// Value per second after, or in total.
    pub after_total: f64,
    /// Samples before.
    pub before_samples: u64,
    /// Samples after.
    pub after_samples: u64,
    /// Windows before; 0 where the profile is one piece.
    pub before_windows: u32,
    /// Windows after.
    pub after_windows: u32,
    /// CPU seconds for each request before, where requests were counted: shares do not see a slow-down of everything.
    pub before_per_request: Option<f64>,
    /// CPU seconds for each request after.
    pub after_per_request: Option<f64>,
    /// Functions beyond noise, at most 50: first those that got dearer or cheaper, then those that only look like it, each
    /// with the largest change of share first.
    pub functions: Vec<FunctionDiff>,
}

/// Why a function is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The function itself got dearer or cheaper, or is called more or less often.
    Itself,
    /// It passes on the change of what it calls.
    Callee,
    /// The same work is done elsewhere: renamed, inlined, called by another. No change of cost.
    Moved,
    /// Go's runtime works more or less: its collector, its scheduler, its locks. What makes it do so is listed beside it.
    Runtime,
    /// It costs between what it did and that times the change of load: only its share changed.
    Load,
}

impl Cause {
    /// Whether the row says that something got dearer or cheaper, and not only that it looks different.
    #[must_use]
    pub fn is_change(self) -> bool {
        matches!(self, Cause::Itself | Cause::Callee)
    }
}

/// What of a function changed beyond noise. A large one varies by more than what grew in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Its inclusive share.
    Whole,
    /// Its own time, which is most of its change.
    OwnTime,
    /// What it spends in this callee, which is most of its change.
    Callee(String),
}

/// One function's change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionDiff {
    /// Name.
    pub name: String,
    /// Share of the total before, 0 to 1.
    pub before: f64,
    /// Share of the total after.
    pub after: f64,
    /// 95 % interval of the difference of shares, of all of the function, whatever its `proof` is.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Absolute value before (per second for CPU).
    pub before_abs: f64,
    /// Absolute value after.
    pub after_abs: f64,
    /// Share of own (self) value before.
    pub own_before: f64,
    /// Share of own (self) value after.
    pub own_after: f64,
    /// False-discovery-controlled q value.
    pub q: f64,
    /// What of it is sure to have changed.
    pub proof: Proof,
    /// Why it is listed.
    pub cause: Cause,
    /// The function that the cause is about, where it is another one: the callee, where the work moved.
    pub through: Option<String>,
    /// It was back to what it was in the last windows.
    pub went_away: bool,
    /// CPU seconds for each request before, where requests were counted.
    pub before_per_request: Option<f64>,
    /// CPU seconds for each request after.
    pub after_per_request: Option<f64>,
}
