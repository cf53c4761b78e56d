//! Asks each member for its own account: status, list, alarms, hash.
