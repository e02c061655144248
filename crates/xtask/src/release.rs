//! The programs as they are shipped: static, small, two files in target/release; the figures, which are theirs. And the
//! demo, on the profile the tests use.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{self, Workspace};

/// Package (and program), profile, and the most bytes the program may have.
///
/// The plugin is started for every call of the runtime: it has its own profile, optimised for size.
const PROGRAMS: &[(&str, &str, Option<u64>)] =
    &[("ripstop", "release", None), ("ripstop-cni", "plugin", Some(1_000_000))];

/// Static linking of the C library (the plugin has none). With `--target`, so that the flag does not reach procedural
/// macros, which are dynamic libraries.
const STATIC: &str = "-C target-feature=+crt-static";

/// Package and program that measures.
const BENCH: &str = "ripstop-bench";

/// Packages of the product that are measured alone, in processes of the program that measures.
const MEASURED: [&str; 4] = ["ripstop-types", "ripstop-bfd", "ripstop-bgp", "ripstop-speaker"];

/// Builds both programs into target/release and checks that they are static and not too big.
///
/// # Errors
/// If the build fails, or a program is not what is promised.
pub fn build(workspace: &Workspace) -> Result<()> {
    let host = workspace::host()?;
    for (program, profile, limit) in PROGRAMS {
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--locked", "--package", program, "--bins", "--profile", profile, "--target", &host]);
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        cargo.env("RUSTFLAGS", format!("{flags} {STATIC}").trim_start());
        ensure!(cargo.status().context("cargo build")?.success(), "{program} does not build");
        let built = workspace.target.join(&host).join(profile).join(program);
        let bytes = std::fs::read(&built).with_context(|| format!("read {}", built.display()))?;
        judge(program, &bytes, *limit)?;
        let place = place(workspace, program, &built)?;
        println!("{} {} bytes, static", place.display(), bytes.len());
    }
    Ok(())
}

/// Lets the shipped program install itself; true where it did.
///
/// # Errors
/// If it was not built.
pub fn install(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let ripstop = shipped(workspace, "ripstop");
    let status = Command::new(&ripstop).arg("install").args(args).stdin(Stdio::null()).status();
    Ok(status.with_context(|| format!("start {}: `make build` makes it", ripstop.display()))?.success())
}

/// Where `build` leaves a program.
fn shipped(workspace: &Workspace, program: &str) -> PathBuf {
    workspace.target.join("release").join(program)
}

/// Builds the programs for development and runs the demo; true where it held.
///
/// # Errors
/// If cargo or the demo cannot be started.
pub fn demo(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let built =
        workspace.cargo().args(["build", "--locked", "--workspace", "--bins"]).status().context("cargo build")?;
    ensure!(built.success(), "the programs do not build");
    let ripstop = workspace.target.join("debug").join("ripstop");
    let demo = Command::new(&ripstop).args(["lab", "demo"]).args(args).stdin(Stdio::null()).status();
    Ok(demo.with_context(|| format!("start {}", ripstop.display()))?.success())
}

/// Measures the shipped programs, or those of the folder that `RIPSTOP_BIN_DIR` names; true where everything was measured.
///
/// # Errors
/// If something does not build, or the measurement cannot be started.
pub fn bench(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let folder = match std::env::var_os("RIPSTOP_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            build(workspace)?;
            workspace.target.join("release")
        }
    };
    // What measures need not be fast: it waits for what it measures. What it measures of itself is compiled as what is shipped.
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--locked", "--package", BENCH]);
    for package in MEASURED {
        cargo.args(["--config", &format!("profile.dev.package.{package}.opt-level=3")]);
    }
    let built = cargo.status().context("cargo build")?;
    ensure!(built.success(), "{BENCH} does not build");
    let bench = workspace.target.join("debug").join(BENCH);
    let status = Command::new(&bench).args(args).env("RIPSTOP_BIN_DIR", folder).stdin(Stdio::null()).status();
    Ok(status.with_context(|| format!("start {}", bench.display()))?.success())
}

/// Puts a built program where it is promised, in one step, so that a running copy stays whole.
fn place(workspace: &Workspace, program: &str, built: &Path) -> Result<PathBuf> {
    let place = shipped(workspace, program);
    let new = place.with_extension("new");
    std::fs::create_dir_all(workspace.target.join("release"))?;
    std::fs::copy(built, &new).with_context(|| format!("copy {} to {}", built.display(), new.display()))?;
    std::fs::rename(&new, &place).with_context(|| format!("rename to {}", place.display()))?;
    Ok(place)
}

/// What is promised of a shipped program: static, and below its limit.
fn judge(program: &str, bytes: &[u8], limit: Option<u64>) -> Result<()> {
    ensure!(
        is_static(bytes)?,
        "{program} is not static: it names an interpreter, so it needs the C library of its host"
    );
    let size = bytes.len() as u64;
    match limit {
        Some(limit) if size >= limit => {
            bail!("{program} has {size} bytes, {} too many: the limit is {limit}", size - limit + 1)
        }
        _ => Ok(()),
    }
}

/// True where an ELF program has no `PT_INTERP` header, by which the kernel would load a dynamic linker (elf(5)).
fn is_static(bytes: &[u8]) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    let field = |at: usize, len: usize| -> Result<u64> {
        let bytes = bytes.get(at..at + len).context("the program is cut short")?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF program");
    let (table, entry, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    for number in 0..count {
        let at = usize::try_from(table + number * entry)?;
        if field(at, 4)? == u64::from(PT_INTERP) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header and one program header of a type.
    fn elf(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn a_program_with_an_interpreter_is_refused() {
        judge("p", &elf(1), None).unwrap();
        assert!(judge("p", &elf(3), None).unwrap_err().to_string().starts_with("p is not static"));
        assert!(judge("p", b"#!/bin/sh", None).is_err());
        assert!(judge("p", &elf(1)[..60], None).is_err());
    }

    #[test]
    fn a_program_over_its_limit_is_refused() {
        judge("p", &elf(1), Some(121)).unwrap();
        let error = judge("p", &elf(1), Some(120)).unwrap_err().to_string();
        assert_eq!(error, "p has 120 bytes, 1 too many: the limit is 120");
    }

    #[test]
    fn this_test_program_is_dynamic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let dynamic = !cfg!(target_feature = "crt-static");
        assert_eq!(is_static(&own).unwrap(), !dynamic);
    }
}
