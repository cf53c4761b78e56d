//! Who calls whom, from closed call trees.
