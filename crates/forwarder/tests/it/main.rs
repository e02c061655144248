//! The forwarder on real packets: namespaces, a wire between them, TUN devices.

mod endings;
mod naive;
mod refusals;
mod support;
mod traffic;
mod wire;
