//! Names for addresses, from files alone: no cooperation of the process, no symbol table needed for Go.
//!
//! Owns the readers of executables and libraries, of the kernel's list of functions, and of the lists that just-in-time
//! compilers leave. Everything here reads what others wrote, perhaps to harm us, perhaps
//! while it changes: each read, count, loop and name has a bound, damage is an error, and nothing is mapped, because a file
//! that is truncated under a mapping kills the process that reads it. Refuses to guess: an address that a table does not
//! cover has no name.

pub mod elf;
pub mod file;
pub mod gopclntab;
pub mod identity;
pub mod jit;
pub mod kernel;
pub mod native;
pub mod vdso;
