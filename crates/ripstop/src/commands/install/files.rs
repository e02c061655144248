//! What is installed, and where.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::cli;
use crate::commands::man;
use crate::failure::Failure;

/// A file of an installation.
#[derive(Debug, Clone, Copy)]
pub struct Installed {
    /// What is in it.
    pub content: Content,
    /// Its path, below the prefix unless it begins with `/`.
    pub to: &'static str,
    /// Whether it stays as it is.
    pub kept: Kept,
}

/// Whether a file that is there stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// An installation replaces it, an uninstallation removes it.
    Never,
    /// An installation keeps it, for it may have been edited; an uninstallation removes it.
    ByInstall,
    /// Both keep it; only --purge removes it.
    Always,
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// This program.
    Program,
    /// The plugin.
    Plugin,
    /// What turns container runtimes towards the plugin.
    NetworkConfiguration,
    /// The manual page.
    Manual,
    /// What makes a shell complete the command.
    Completion(Shell),
    /// A text, and a word in it by which it is known to be ours.
    Text(&'static str, &'static str),
}

const fn never(content: Content, to: &'static str) -> Installed {
    Installed { content, to, kept: Kept::Never }
}

const CONFLIST: &str = include_str!("../../../../../packaging/10-ripstop.conflist");
const CONFIG: &str = include_str!("../../../../../packaging/config.yaml");
const AGENT_UNIT: &str = include_str!("../../../../../packaging/systemd/ripstop-agent.service");
const STORE_UNIT: &str = include_str!("../../../../../packaging/systemd/ripstop-store.service");
const FORWARD_UNIT: &str = include_str!("../../../../../packaging/systemd/ripstop-udp-forward.service");
const NETWORKD_LINKS: &str = include_str!("../../../../../packaging/systemd/10-ripstop.network");
const NETWORKD: &str = include_str!("../../../../../packaging/systemd/networkd.conf");
const NETWORK_MANAGER: &str = include_str!("../../../../../packaging/NetworkManager.conf");

/// In the order in which they come; they go in the reverse order, but for the last, which goes first.
pub const FILES: &[Installed] = &[
    never(Content::Program, "bin/ripstop"),
    never(Content::Plugin, "/opt/cni/bin/ripstop-cni"),
    never(Content::Manual, "share/man/man1/ripstop.1"),
    never(Content::Completion(Shell::Bash), "share/bash-completion/completions/ripstop"),
    never(Content::Completion(Shell::Zsh), "share/zsh/site-functions/_ripstop"),
    never(Content::Completion(Shell::Fish), "share/fish/vendor_completions.d/ripstop.fish"),
    never(Content::Text(AGENT_UNIT, "ripstop agent"), "lib/systemd/system/ripstop-agent.service"),
    never(Content::Text(STORE_UNIT, "ripstop store"), "lib/systemd/system/ripstop-store.service"),
    never(Content::Text(FORWARD_UNIT, "ripstop udp-forward"), "lib/systemd/system/ripstop-udp-forward.service"),
    Installed {
        content: Content::Text(NETWORKD_LINKS, "rip*"),
        to: "/etc/systemd/network/10-ripstop.network",
        kept: Kept::ByInstall,
    },
    Installed {
        content: Content::Text(NETWORKD, "ManageForeignRoutes"),
        to: "/etc/systemd/networkd.conf.d/10-ripstop.conf",
        kept: Kept::ByInstall,
    },
    Installed {
        content: Content::Text(NETWORK_MANAGER, "rip*"),
        to: "/etc/NetworkManager/conf.d/10-ripstop.conf",
        kept: Kept::ByInstall,
    },
    Installed { content: Content::Text(CONFIG, ""), to: "/etc/ripstop/config.yaml", kept: Kept::Always },
    LIST,
];

/// What turns container runtimes towards the plugin.
pub const LIST: Installed = Installed {
    content: Content::NetworkConfiguration,
    to: "/etc/cni/net.d/10-ripstop.conflist",
    kept: Kept::ByInstall,
};

/// The same, before those of other networks that are left where they are.
pub const FIRST: Installed = Installed { to: "/etc/cni/net.d/00-ripstop.conflist", ..LIST };

/// Where container runtimes look for network configurations, below the root. They take the first by name.
const CONFIGURATIONS: &str = "etc/cni/net.d";

/// Links by which systemd starts the units at boot.
pub const ENABLED: &[&str] = &[
    "etc/systemd/system/multi-user.target.wants/ripstop-agent.service",
    "etc/systemd/system/multi-user.target.wants/ripstop-store.service",
    "etc/systemd/system/multi-user.target.wants/ripstop-udp-forward.service",
];

impl Content {
    /// Permissions of the file.
    pub fn mode(self) -> u32 {
        if matches!(self, Self::Program | Self::Plugin) { 0o755 } else { 0o644 }
    }

    /// The text of what is not copied from a file. Units name the prefix.
    ///
    /// # Errors
    /// Where a prefix or a page cannot be written as text.
    pub fn text(self, prefix: &Path) -> Result<String, Failure> {
        let prefix = prefix.to_str().filter(|prefix| !prefix.contains(|c: char| c.is_whitespace() || c == '%'));
        let prefix = prefix.ok_or_else(|| {
            Failure::Usage("--prefix: accepted is a path of UTF-8 without spaces and '%', for units name it".into())
        })?;
        let text = match self {
            Self::Program | Self::Plugin => String::new(),
            Self::NetworkConfiguration => CONFLIST.to_owned(),
            Self::Manual => man::whole().map_err(|error| Failure::system("cannot make the manual page", &error))?,
            Self::Completion(shell) => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut cli::command(), "ripstop", &mut script);
                String::from_utf8_lossy(&script).into_owned()
            }
            Self::Text(text, _) => text.replace("/usr/local", prefix),
        };
        Ok(text)
    }
}

impl Installed {
    /// Whether container runtimes look for it, rather than systemd or people.
    pub fn is_cni(&self) -> bool {
        matches!(self.content, Content::Plugin | Content::NetworkConfiguration)
    }

    /// Whether what lies at `path` may be removed: a file whose name is ours, and where others may have a file of that
    /// name, whose text names us.
    ///
    /// # Errors
    /// Where it cannot be read; [`io::ErrorKind::NotFound`] where there is nothing.
    pub fn is_ours(&self, path: &Path) -> io::Result<bool> {
        if path.symlink_metadata()?.is_symlink() {
            // The link bears our name; what it points at is not touched.
            return Ok(true);
        }
        match self.content {
            Content::NetworkConfiguration => names(path, "ripstop-cni"),
            Content::Text(_, word) => names(path, word),
            _ => Ok(path.is_file()),
        }
    }
}

fn names(path: &Path, word: &str) -> io::Result<bool> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).contains(word))
}

/// Network configurations of others that container runtimes find before this one, in order of their names.
pub fn before(root: &Path, ours: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(root.join(CONFIGURATIONS)).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = found
        .filter(|path| {
            path.extension().is_some_and(|kind| ["conf", "conflist", "json"].iter().any(|known| kind == *known))
        })
        .filter(|path| path.file_name() < ours.file_name())
        .collect();
    found.sort();
    found
}

/// Writes a file so that it is there whole, or as it was before, also after a power cut: a running program and a reader
/// have the old one or the new one.
///
/// # Errors
/// As the system's; nothing is left over then.
pub fn write(to: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = to.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".new-{}", std::process::id()));
    // Hidden, for container runtimes read every *.conflist of their folder.
    let new = folder.join(format!(".{}", name.to_string_lossy()));
    let written = place(&new, to, bytes, mode);
    if written.is_err() {
        // It may not have come to be.
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn place(new: &Path, to: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(new)?;
    file.write_all(bytes)?;
    // The process's mask may have taken bits away.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(new, to)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a/b/file");
        write(&to, b"one", 0o644).unwrap();
        write(&to, b"two", 0o755).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        assert_eq!(to.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("taken");
        fs::create_dir(&to).unwrap();
        assert!(write(&to, b"x", 0o644).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_turning_point_is_last() {
        let turning: Vec<usize> =
            (0..FILES.len()).filter(|at| FILES[*at].content == Content::NetworkConfiguration).collect();
        assert_eq!(turning, [FILES.len() - 1]);
    }

    #[test]
    fn every_text_is_known_as_ours() {
        let dir = tempfile::tempdir().unwrap();
        for file in FILES.iter().filter(|file| !matches!(file.content, Content::Program | Content::Plugin)) {
            let text = file.content.text(Path::new("/opt/x")).unwrap();
            let edited = matches!(file.content, Content::Text(..));
            assert!(!text.is_empty(), "{}", file.to);
            assert!(!edited || !text.contains("/usr/local"), "{}", file.to);
            let path = dir.path().join("file");
            fs::write(&path, text).unwrap();
            assert!(file.is_ours(&path).unwrap(), "{}", file.to);
        }
        let foreign = dir.path().join("foreign");
        fs::write(&foreign, "{\"plugins\": [{\"type\": \"bridge\"}]}").unwrap();
        assert!(!FILES.last().unwrap().is_ours(&foreign).unwrap());
    }

    #[test]
    fn a_prefix_that_units_cannot_name_is_refused() {
        for prefix in ["/opt/a b", "/opt/%n", "/opt/a\nb"] {
            let failure = Content::Text(AGENT_UNIT, "").text(Path::new(prefix)).unwrap_err();
            assert_eq!(failure.code(), 2, "{prefix}");
        }
    }
}
