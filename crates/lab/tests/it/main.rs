//! The lab on real namespaces.
