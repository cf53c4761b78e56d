//! Faster probes for a while: `POST /probe-rate?factor=5&for=2m` on the socket, and what the board says meanwhile. A factor of 1
//! ends it. The bounds are the prober's.

use std::time::Duration;

use collectors::probe::{Boost, Rates};
use http::StatusCode;

use super::routes::{Answer, Surface, text};
use crate::config::parse_duration;

pub(super) fn post(surface: &Surface, query: Option<&str>) -> Answer {
    let boost = match parse(query.unwrap_or_default()) {
        Ok(boost) => boost,
        Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    let Some(boost) = boost else {
        let ended = surface.rates.end();
        tracing::info!(ended, "probes at the usual rate");
        return text(StatusCode::ACCEPTED, "probes go at the usual rate\n");
    };
    match surface.rates.boost(boost) {
        Ok(()) => {
            tracing::info!(factor = boost.factor, lasts = ?boost.lasts, "probes at a higher rate");
            let Boost { factor, lasts } = boost;
            text(
                StatusCode::ACCEPTED,
                format!("probes go {factor} times as fast for {lasts:?}, then as before\n"),
            )
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// The sentence for the board, while it lasts.
pub(super) fn told(rates: &Rates) -> Option<String> {
    let (factor, left) = rates.running()?;
    let left = Duration::from_secs(left.as_secs().max(1));
    Some(format!("probes go {factor} times as fast as configured, by request, for another {left:?}"))
}

/// What is wished for; `None` for the usual rates.
fn parse(query: &str) -> Result<Option<Boost>, String> {
    let (mut factor, mut lasts) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("factor", value)) if factor.is_none() => {
                let number = value.parse::<f64>().map_err(|_| format!("factor: not a number: {value}"))?;
                factor = Some(number);
            }
            Some(("for", value)) if lasts.is_none() => {
                let time = parse_duration(value)
                    .ok_or_else(|| format!("for: not a duration such as 2m: {value}"))?;
                lasts = Some(time);
            }
            _ => return Err(format!("{pair}: give factor=NUMBER and for=DURATION, once each")),
        }
    }
    let factor = factor.ok_or("factor: must be given, e.g. factor=5&for=2m; factor=1 ends a boost")?;
    match lasts {
        None if factor == 1.0 => Ok(None),
        None => Err("for: must be given: faster rates have a time limit, e.g. for=2m".to_owned()),
        Some(lasts) => Ok(Some(Boost { factor, lasts })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_understood_or_the_reason_is_exact() {
        let check = |query: &str, expected: Result<Option<(f64, u64)>, &str>| {
            let got = parse(query).map(|boost| boost.map(|boost| (boost.factor, boost.lasts.as_secs())));
            match expected {
                Ok(expected) => assert_eq!(got, Ok(expected), "{query}"),
                Err(why) => assert!(got.as_ref().is_err_and(|error| error.contains(why)), "{query}: {got:?}"),
            }
        };
        check("factor=5&for=2m", Ok(Some((5.0, 120))));
        check("for=90s&factor=1.5", Ok(Some((1.5, 90))));
        check("factor=1", Ok(None));
        check("", Err("factor: must be given"));
        check("factor=5", Err("have a time limit"));
        check("factor=x&for=2m", Err("factor: not a number: x"));
        check("factor=5&for=soon", Err("for: not a duration"));
        check("factor=5&factor=6&for=2m", Err("once each"));
        check("rate=5&for=2m", Err("rate=5"));
    }

    #[test]
    fn the_board_says_it_while_it_lasts() {
        let rates = Rates::default();
        assert_eq!(told(&rates), None);
        rates.boost(Boost { factor: 5.0, lasts: Duration::from_secs(60) }).unwrap();
        assert!(told(&rates).is_some_and(|told| told.contains("5 times")));
        rates.end();
        assert_eq!(told(&rates), None);
    }
}
