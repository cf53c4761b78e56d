//! Follows log files and turns lines into events; redacts keys and values.
