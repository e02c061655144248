//! The crate against the kernel, in network namespaces of the tests' own.

mod roundtrip;
mod support;
