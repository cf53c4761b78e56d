//! Finds the etcd members of this node without configuration; reads only.
#[cfg(test)]
pub(crate) mod fixture;
