//! Finds the etcd members of this node without configuration; reads only.
