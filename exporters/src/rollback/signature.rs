//! Standard Webhooks 1.0 signatures: HMAC-SHA256 over `id.timestamp.body`, one `v1,` entry for each secret.
//!
//! Owns secrets and the sum. Refuses to print a secret, and to compare in variable time.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Prefix of a secret as operators write it.
const SECRET_PREFIX: &str = "whsec_";

/// Shortest key that Standard Webhooks allows.
const SECRET_BYTES_MIN: usize = 24;

/// Longest key that Standard Webhooks allows.
const SECRET_BYTES_MAX: usize = 64;

/// How far a receiver's clock may be from ours, seconds: what Standard Webhooks recommends against replay.
pub const TOLERANCE_S: u64 = 300;

/// Signatures looked at in one header: a sender rotates two or three secrets, never more than this.
const SIGNATURES_MAX: usize = 16;

/// A signing key. Its `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    key: Vec<u8>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Does not begin with `whsec_`.
    #[error("a webhook secret begins with whsec_")]
    Prefix,
    /// The rest is not base64.
    #[error("a webhook secret is base64 after whsec_")]
    Base64,
    /// Fewer than 24 or more than 64 bytes.
    #[error("a webhook secret holds 24 to 64 bytes, this one holds {0}")]
    Length(usize),
}

impl Secret {
    /// Parses `whsec_<base64 of 24 to 64 bytes>`; surrounding white space (a file's last line feed) is ignored.
    ///
    /// # Errors
    /// [`SecretError`]; the text is never part of it.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        let encoded = text.trim().strip_prefix(SECRET_PREFIX).ok_or(SecretError::Prefix)?;
        let key = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).map_err(|_| SecretError::Base64)?;
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&key.len()) {
            Ok(Secret { key })
        } else {
            Err(SecretError::Length(key.len()))
        }
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of any length; the Option only satisfies the type.
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key).ok()?;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        Some(mac)
    }
}

/// The value of `webhook-signature`: one `v1,<base64>` for each secret, space-separated, so that a receiver may hold the
/// old or the new one while keys rotate.
#[must_use]
pub fn sign(secrets: &[Secret], id: &str, timestamp_s: u64, body: &[u8]) -> String {
    let timestamp = timestamp_s.to_string();
    let one = |secret: &Secret| {
        let sum = secret.mac(id, &timestamp, body)?.finalize().into_bytes();
        Some(format!("v1,{}", STANDARD.encode(sum)))
    };
    secrets.iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

/// The three headers of one delivery, as received.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// `webhook-id`
    pub id: &'a str,
    /// `webhook-timestamp`
    pub timestamp: &'a str,
    /// `webhook-signature`
    pub signature: &'a str,
}

/// Why a delivery must not be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The timestamp is no whole number of seconds.
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    /// More than [`TOLERANCE_S`] from the receiver's clock.
    #[error("webhook-timestamp is more than five minutes away")]
    TooFar,
    /// No `v1` signature in the header fits the secret.
    #[error("no signature fits the secret")]
    Mismatch,
}

/// Whether `body` came from somebody who knows `secret`, not more than five minutes from `now_s` (Unix seconds).
///
/// # Errors
/// [`VerifyError`]
pub fn verify(secret: &Secret, headers: Headers<'_>, body: &[u8], now_s: u64) -> Result<(), VerifyError> {
    let sent_s: u64 = headers.timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    if now_s.abs_diff(sent_s) > TOLERANCE_S {
        return Err(VerifyError::TooFar);
    }
    for entry in headers.signature.split(' ').take(SIGNATURES_MAX) {
        let Some(sum) = entry.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok()) else {
            continue;
        };
        let Some(mac) = secret.mac(headers.id, headers.timestamp, body) else { continue };
        if mac.verify_slice(&sum).is_ok() {
            return Ok(());
        }
    }
    Err(VerifyError::Mismatch)
}

#[cfg(test)]
mod tests {
    use super::{Headers, Secret, SecretError, VerifyError, sign, verify};

    // The example of the Standard Webhooks specification and its reference libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT_S: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn check(signature: &str, body: &[u8], now_s: u64, expected: Result<(), VerifyError>) {
        let secret = Secret::parse(SECRET).unwrap();
        let headers = Headers { id: ID, timestamp: &AT_S.to_string(), signature };
        assert_eq!(verify(&secret, headers, body, now_s), expected, "{signature}");
    }

    #[test]
    fn the_vector_of_the_specification_is_reproduced() {
        assert_eq!(sign(&[Secret::parse(SECRET).unwrap()], ID, AT_S, BODY), SIGNATURE);
    }

    #[test]
    fn a_signature_is_taken_only_for_its_body_time_and_secret() {
        check(SIGNATURE, BODY, AT_S, Ok(()));
        check(SIGNATURE, BODY, AT_S + 300, Ok(()));
        check(SIGNATURE, BODY, AT_S + 301, Err(VerifyError::TooFar));
        check(SIGNATURE, BODY, AT_S - 301, Err(VerifyError::TooFar));
        check(SIGNATURE, b"{}", AT_S, Err(VerifyError::Mismatch));
        check(&format!("v1,AAAA v2,xx junk {SIGNATURE}"), BODY, AT_S, Ok(()));
        check("", BODY, AT_S, Err(VerifyError::Mismatch));
        check("v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", BODY, AT_S, Err(VerifyError::Mismatch));
        check(&"v1,AAAA ".repeat(100_000), BODY, AT_S, Err(VerifyError::Mismatch));
    }

    #[test]
    fn while_keys_rotate_either_receiver_is_satisfied() {
        let old = Secret::parse(SECRET).unwrap();
        let new = Secret::parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        let signature = sign(&[new.clone(), old.clone()], ID, AT_S, BODY);
        let timestamp = AT_S.to_string();
        let headers = Headers { id: ID, timestamp: &timestamp, signature: &signature };
        for secret in [old, new] {
            assert_eq!(verify(&secret, headers, BODY, AT_S), Ok(()));
        }
    }

    #[test]
    fn secrets_are_checked_and_never_printed() {
        assert_eq!(Secret::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), Err(SecretError::Prefix));
        assert_eq!(Secret::parse("whsec_!!!"), Err(SecretError::Base64));
        assert_eq!(Secret::parse("whsec_AAAA"), Err(SecretError::Length(3)));
        let secret = Secret::parse(&format!("{SECRET}\n")).unwrap();
        assert_eq!(format!("{secret:?}"), "***");
    }
}
