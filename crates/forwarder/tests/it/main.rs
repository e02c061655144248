//! The forwarder on real packets: namespaces, a wire between them, TUN devices.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod endings;
mod naive;
mod refusals;
mod support;
mod traffic;
mod wire;
