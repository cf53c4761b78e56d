//! Rollback signals: journal first, then send until acknowledged or expired.
