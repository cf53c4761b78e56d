//! Loopback ports that stay ours.
//!
//! Owns the choice of ports. They lie below the range the kernel hands out for outgoing connections: a member that is
//! down for a while finds its port free again. Refuses to promise more than that they were free a moment ago.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Result, bail};

/// Above the well-known services, below 32768, where Linux starts its ephemeral range.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// Holds the listeners until [`Held::release`], so that nobody else is given the same ports.
#[derive(Debug)]
pub(crate) struct Held(Vec<(u16, TcpListener)>);

impl Held {
    /// Lets go of them, right before the member that binds them starts.
    pub(crate) fn release(self) -> Vec<u16> {
        self.0.into_iter().map(|(port, _)| port).collect()
    }
}

/// Takes `wanted` ports. Each process starts elsewhere, so that tests side by side rarely meet.
pub(crate) fn hold(wanted: usize) -> Result<Held> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // 977 is prime to COUNT: neighbouring process ids land far apart.
    let start = u16::try_from(u64::from(process::id()) * 977 % u64::from(COUNT))?;
    let mut held = Vec::new();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step % COUNT) % COUNT;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == wanted {
            return Ok(Held(held));
        }
    }
    bail!("no {wanted} free ports on loopback between {FIRST} and {}", FIRST + COUNT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FIRST, hold};

    #[test]
    fn held_ports_differ_and_lie_below_the_ephemeral_range() {
        let (one, two) = (hold(9).unwrap(), hold(9).unwrap());
        let ports: BTreeSet<u16> = one.release().into_iter().chain(two.release()).collect();
        assert_eq!(ports.len(), 18);
        assert!(ports.iter().all(|port| (FIRST..32_768).contains(port)));
    }
}
