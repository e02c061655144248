//! The forwarder on real packets: namespaces, a wire between them, TUN devices.

mod support;
mod traffic;
