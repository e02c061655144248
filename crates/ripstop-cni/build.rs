//! Says whether the plugin is built to be shipped, on the profile `plugin`: then without std and without a C library.
//!
//! Cargo tells a build script of a profile only by the directory that it builds in.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(freestanding)");
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    // OUT_DIR is …/PROFILE/build/PACKAGE-HASH/out.
    let profile = Path::new(&out).ancestors().nth(3).and_then(Path::file_name);
    let linux = std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if profile.is_some_and(|name| name == "plugin") && linux && ["x86_64", "aarch64"].contains(&arch.as_str()) {
        println!("cargo::rustc-cfg=freestanding");
        for arg in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
            println!("cargo::rustc-link-arg-bins={arg}");
        }
    }
}
