//! Log events of one trace become one tree.
