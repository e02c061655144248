//! Compiles the programs of `c/` for the kernel.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=c");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("ipip.o");
    // Debian keeps asm/ in a folder of the kind of the machine that compiles; nothing that is used of it differs.
    let host = std::env::var("HOST").unwrap_or_default();
    let kind = host.split('-').next().unwrap_or_default();
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]);
    // The same bytes wherever they are compiled: what is pinned bears their hash.
    command.arg("-fdebug-compilation-dir=.");
    command.arg(format!("-I/usr/include/{kind}-linux-gnu")).args(["-c", "c/ipip.c", "-o"]).arg(&out);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => stop(&format!("{clang} did not compile crates/bpf/c/ipip.c ({status})")),
        Err(error) => stop(&format!("{clang}: {error}. The programs for the kernel need it: `make setup` installs it")),
    }
}

/// Ends the build with a sentence.
fn stop(why: &str) {
    println!("cargo::error={why}");
}
