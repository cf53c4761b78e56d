//! What is done to one side of a pair: regressions of a known size, and work that only moves.
//!
//! Owns the arithmetic of "larger by so much of the whole".

use crate::dice::Dice;
use crate::side::{Code, Drawn};

/// How a function gets dearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// More instructions of its own.
    Own,
    /// All that it does, in proportion: it is called more often.
    Calls,
    /// A call that was not there.
    NewCallee,
}

impl Growth {
    pub(crate) const ALL: [Growth; 3] = [Growth::Own, Growth::Calls, Growth::NewCallee];
}

/// How work moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Another name.
    Renamed,
    /// Into its caller.
    Inlined,
    /// Called by another.
    Caller,
}

impl Move {
    pub(crate) const ALL: [Move; 3] = [Move::Renamed, Move::Inlined, Move::Caller];
}

/// What a new callee is called.
pub(crate) const NEW: &str = "example.com/new.(*Thing).work";

/// Makes `function`, which has this share, dearer until its share is larger by `by`.
///
/// Each of its samples gets a Poisson number of others, so that the growth follows its load; of the whole they are
/// by / (1 − share − by), since the whole grows too.
pub(crate) fn grow(
    (code, windows): (&mut Code, &mut [Drawn<'_>]),
    (function, share, by): (u32, f64, f64),
    growth: Growth,
    dice: &mut Dice,
) {
    let each = by / (share * (1.0 - share - by));
    let new = code.name(NEW);
    for window in windows {
        let mut added = Vec::new();
        for (stack, count) in window.stacks().iter() {
            let path = &code.paths[*stack as usize];
            // The outermost call of it: recursion is one call.
            let Some(depth) = path.iter().rposition(|at| *at == function) else { continue };
            let more = dice.poisson(f64::from(*count) * each);
            if more > 0 {
                let path = match growth {
                    Growth::Own => path[depth..].to_vec(),
                    Growth::Calls => path.clone(),
                    Growth::NewCallee => [&[new], &path[depth..]].concat(),
                };
                added.push((path, more));
            }
        }
        let added: Vec<(u32, u32)> = added.into_iter().map(|(path, more)| (code.stack(path), more)).collect();
        window.stacks().extend(added);
    }
}

/// Moves all that `function` does; `to` is the new caller, for [`Move::Caller`].
pub(crate) fn shift(code: &mut Code, windows: &mut [Drawn<'_>], (function, to): (u32, u32), how: Move) {
    let renamed = code.name(&format!("{}V2", code.names[function as usize].clone()));
    // The path from the new caller to the root, as it is most often seen.
    let below = code.paths.iter().find(|path| path.first() == Some(&to)).cloned().unwrap_or_else(|| vec![to]);
    for window in windows {
        for (stack, _) in window.stacks() {
            let path = &code.paths[*stack as usize];
            let Some(depth) = path.iter().rposition(|at| *at == function) else { continue };
            let path: Vec<u32> = match how {
                Move::Renamed => path.iter().map(|at| if *at == function { renamed } else { *at }).collect(),
                // Without a caller there is nothing to inline it into.
                Move::Inlined if depth + 1 == path.len() => continue,
                Move::Inlined => path.iter().copied().filter(|at| *at != function).collect(),
                Move::Caller => [&path[..=depth], below.as_slice()].concat(),
            };
            *stack = code.stack(path);
        }
    }
}
