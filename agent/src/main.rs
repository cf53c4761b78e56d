//! The program.
#[allow(dead_code, reason = "until main wires it")]
mod admin;
#[allow(dead_code, reason = "until main wires it")]
mod selfprofile;

fn main() {}
