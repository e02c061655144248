//! Says whether the plugin is built to be shipped, on the profile `plugin`: then without std and without a C library, if
//! it is for x86_64, the only architecture on which that could be tested. On others it is built on std, and is larger.
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
    let x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64");
    if profile.is_some_and(|name| name == "plugin") && linux && x86_64 {
        println!("cargo::rustc-cfg=freestanding");
        for arg in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
            println!("cargo::rustc-link-arg-bins={arg}");
        }
    }
}
