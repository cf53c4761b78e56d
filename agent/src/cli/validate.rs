//! `agent validate`: every value with where it came from, every problem with its place. Changes nothing, connects nowhere.

use super::{Ended, Exit, Source, say, tell};
use crate::config::Loaded;

/// Prints the configuration as it would be used; exit code 78 when something is wrong.
pub(super) fn validate(source: &Source) -> Ended {
    let Loaded { problems, warnings, origins, .. } = crate::config::load(source);
    for origin in &origins {
        say(&format!("{} = {}  ({})", origin.key, origin.value, origin.from));
    }
    for warning in &warnings {
        tell(&format!("ignored: {warning}"));
    }
    for problem in &problems {
        tell(&problem.to_string());
    }
    Ok(if problems.is_empty() { Exit::Ok } else { Exit::Config })
}
