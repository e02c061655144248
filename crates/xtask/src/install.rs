//! `make install`: what `make build` left, with manual, completions and systemd units, below a prefix.
//!
//! Only files are written, and only below DESTDIR. No unit is enabled, and no configuration that exists is replaced.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::release;
use crate::workspace::Workspace;

/// A file of `packaging/`: where it is, where it goes, and whether a file that is there stays.
struct Packaged {
    from: &'static str,
    to: &'static str,
    keep: bool,
}

/// Units, which name the prefix, and configuration: ours, and what other network programs have to be told. NetworkManager
/// and older networkd read no configuration below /usr/local.
const PACKAGED: &[Packaged] = &[
    Packaged { from: "systemd/ripstop-agent.service", to: "lib/systemd/system/ripstop-agent.service", keep: false },
    Packaged { from: "systemd/ripstop-store.service", to: "lib/systemd/system/ripstop-store.service", keep: false },
    Packaged { from: "systemd/10-ripstop.network", to: "/etc/systemd/network/10-ripstop.network", keep: true },
    Packaged { from: "systemd/networkd.conf", to: "/etc/systemd/networkd.conf.d/10-ripstop.conf", keep: true },
    Packaged { from: "NetworkManager.conf", to: "/etc/NetworkManager/conf.d/10-ripstop.conf", keep: true },
    Packaged { from: "config.yaml", to: "/etc/ripstop/config.yaml", keep: true },
    Packaged { from: "10-ripstop.conflist", to: "/etc/cni/net.d/10-ripstop.conflist", keep: true },
];

/// Where to install.
struct Place {
    prefix: PathBuf,
    destdir: PathBuf,
}

impl Place {
    /// Path of a file: below the prefix, or, where `to` begins with `/`, as it stands; both below DESTDIR.
    fn of(&self, to: &str) -> PathBuf {
        self.destdir.join(self.prefix.join(to).strip_prefix("/").unwrap_or(Path::new(to)))
    }
}

/// `cargo xtask install [--prefix P] [--destdir D]`.
///
/// # Errors
/// If an argument is wrong, nothing was built, or a file cannot be written.
pub fn command(workspace: &Workspace, args: &[String]) -> Result<()> {
    let place = parse(args)?;
    let ripstop = release::shipped(workspace, "ripstop");
    let plugin = release::shipped(workspace, "ripstop-cni");
    for program in [&ripstop, &plugin] {
        ensure!(program.exists(), "{} is missing: `make build` makes it", program.display());
    }
    write(&place.of("bin/ripstop"), &std::fs::read(&ripstop)?, 0o755)?;
    // The second is where runtimes look for plugins unless told otherwise.
    for to in ["bin/ripstop-cni", "/opt/cni/bin/ripstop-cni"] {
        write(&place.of(to), &std::fs::read(&plugin)?, 0o755)?;
    }
    write(&place.of("share/man/man1/ripstop.1"), &printed(&ripstop, &["man"])?, 0o644)?;
    for (shell, to) in [
        ("bash", "share/bash-completion/completions/ripstop"),
        ("zsh", "share/zsh/site-functions/_ripstop"),
        ("fish", "share/fish/vendor_completions.d/ripstop.fish"),
    ] {
        write(&place.of(to), &printed(&ripstop, &["completion", shell])?, 0o644)?;
    }
    for file in PACKAGED {
        let from = workspace.root.join("packaging").join(file.from);
        let text = std::fs::read_to_string(&from).with_context(|| format!("read {}", from.display()))?;
        let to = place.of(file.to);
        if file.keep && to.exists() {
            println!("{} kept as it is", to.display());
            continue;
        }
        write(&to, text.replace("/usr/local", &place.prefix.to_string_lossy()).as_bytes(), 0o644)?;
    }
    Ok(())
}

fn parse(args: &[String]) -> Result<Place> {
    let mut place = Place { prefix: "/usr/local".into(), destdir: "/".into() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg}: a folder must follow"))?;
        match arg.as_str() {
            "--prefix" => place.prefix = value.into(),
            "--destdir" if value.is_empty() => {}
            "--destdir" => place.destdir = value.into(),
            other => bail!("{other}: unknown argument, known are --prefix and --destdir"),
        }
    }
    ensure!(place.prefix.is_absolute(), "prefix {}: must begin with /", place.prefix.display());
    Ok(place)
}

/// What the program prints when run with `args`.
fn printed(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(args).output().with_context(|| format!("start {}", program.display()))?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{} {}: {complaint}", program.display(), args.join(" "));
    Ok(output.stdout)
}

/// Writes a file in one step: a program that runs from it, or a reader, sees the old file or the new one.
fn write(to: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = to.parent().with_context(|| format!("{} has no folder", to.display()))?;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut new = to.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    std::fs::write(&new, bytes).with_context(|| format!("write {}", new.display()))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&new, to).with_context(|| format!("rename to {}", to.display()))?;
    println!("{}", to.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn destdir_is_honoured_for_every_path() {
        let place = parse(&words("--prefix /usr --destdir /tmp/pkg")).unwrap();
        assert_eq!(place.of("bin/ripstop"), Path::new("/tmp/pkg/usr/bin/ripstop"));
        assert_eq!(place.of("/etc/ripstop/config.yaml"), Path::new("/tmp/pkg/etc/ripstop/config.yaml"));
        let plain = parse(&words("--prefix /usr/local --destdir ")).unwrap();
        assert_eq!(plain.of("bin/ripstop"), Path::new("/usr/local/bin/ripstop"));
    }

    #[test]
    fn a_relative_prefix_is_refused() {
        assert!(parse(&words("--prefix usr")).is_err());
    }

    #[test]
    fn files_are_replaced_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a/b");
        write(&to, b"one", 0o644).unwrap();
        write(&to, b"two", 0o755).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn every_packaged_file_exists() {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
        for file in PACKAGED {
            assert!(packaging.join(file.from).is_file(), "{} is missing", file.from);
        }
    }
}
