//! How deep a document is nested, told without loading it. Owns the bound.

use saphyr_parser::{Event, Parser};

/// Nested lists and mappings; ours are five deep, and the loader spends its stack on each level.
pub(super) const DEPTH_MAX: usize = 32;

/// The place (`line:col`) where the text is nested more deeply than the loader can bear: it spends its stack on each level,
/// the events come without one. What aliases multiply, the loader bounds itself.
pub(super) fn too_deep(text: &str) -> Option<String> {
    let mut depth = 0_usize;
    for event in Parser::new_from_str(text) {
        // The loader tells syntax errors.
        let (event, span) = event.ok()?;
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Some(format!("{}:{}", span.start.line(), span.start.col() + 1));
        }
    }
    None
}
