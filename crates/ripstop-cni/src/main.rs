//! `ripstop-cni`, the CNI plugin: it passes a runtime's call on to the agent, and the agent's answer back.
//!
//! Not here: anything that touches the network. All work is the agent's.
//!
//! A runtime starts this program for every call, so it is made to start fast. The profile `plugin` builds
//! it, for x86_64, without std and without a C library: a static program of some tens of kilobytes that enters at `_start`,
//! takes its memory from one arena, and makes only the system calls it needs (module `start`). Every other build has the
//! same code on std, which then gives only the entry, the allocator and the panic handler.
//!
//! Invariants: what is printed on standard output is a result, a version, or an error object of the specification; the
//! exit status is 0 exactly where the call succeeded; no wait is without a bound.
#![cfg_attr(freestanding, no_std, no_main)]

extern crate alloc;

mod agent;
#[cfg(freestanding)]
mod mem;
mod plugin;
#[cfg(freestanding)]
mod start;
mod sys;

#[cfg(not(freestanding))]
fn main() {
    use std::os::unix::ffi::OsStringExt;

    let args: Vec<Vec<u8>> = std::env::args_os().skip(1).map(OsStringExt::into_vec).collect();
    let vars: Vec<Vec<u8>> =
        std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'=')).collect();
    std::process::exit(plugin::run(args.iter().map(Vec::as_slice), vars.iter().map(Vec::as_slice)));
}
