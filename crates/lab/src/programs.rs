//! Where the programs are that a lab runs.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Attempt, LabError, Result};
use crate::options::Options;

/// The programs of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `ripstop`: agent, store and the init of machines.
    pub ripstop: PathBuf,
    /// `ripstop-cni`, if there is one; a lab without agents needs none.
    pub plugin: Option<PathBuf>,
}

impl Programs {
    /// Finds the programs: as the options say, as `RIPSTOP_BIN` and `RIPSTOP_CNI` say, this very program, or beside it and
    /// one folder up, which is where a test finds what cargo built.
    pub fn find(options: &Options) -> Result<Self> {
        let me = env::current_exe().attempt(|| "find this program".into())?;
        let me = without_mark(&me);
        let ripstop = match options.ripstop.clone().or_else(|| from_env("RIPSTOP_BIN")) {
            Some(named) => existing(named, "--ripstop or RIPSTOP_BIN")?,
            None if is_ripstop(&me) => me.clone(),
            None => near(&me, "ripstop").ok_or_else(|| {
                LabError::failed(format!("no program `ripstop` beside {}: build it, or set RIPSTOP_BIN", me.display()))
            })?,
        };
        let plugin = match options.plugin.clone().or_else(|| from_env("RIPSTOP_CNI")) {
            Some(named) => Some(existing(named, "--plugin or RIPSTOP_CNI")?),
            None => near(&ripstop, "ripstop-cni").or_else(|| near(&me, "ripstop-cni")),
        };
        Ok(Self { ripstop, plugin })
    }

    /// The programs a lab was made with.
    pub(crate) fn recorded(options: &Options) -> Result<Self> {
        match &options.ripstop {
            Some(ripstop) => Ok(Self { ripstop: ripstop.clone(), plugin: options.plugin.clone() }),
            None => Self::find(options),
        }
    }

    /// The plugin, or why there is none.
    pub fn plugin(&self) -> Result<&Path> {
        self.plugin.as_deref().ok_or_else(|| {
            let beside = self.ripstop.display();
            LabError::failed(format!("no plugin `ripstop-cni` beside {beside}: build it, or set RIPSTOP_CNI"))
        })
    }
}

fn from_env(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn existing(path: PathBuf, source: &str) -> Result<PathBuf> {
    let absolute = std::path::absolute(&path).attempt(|| format!("find {}", path.display()))?;
    if absolute.is_file() {
        return Ok(absolute);
    }
    Err(LabError::usage(format!("{source} names {}, which is not a file", path.display())))
}

/// The product itself, or this crate's commands on their own.
fn is_ripstop(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "ripstop" || name == "ripstop-lab")
}

fn near(program: &Path, name: &str) -> Option<PathBuf> {
    program.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

/// The kernel marks the path of a program whose file was replaced; its successor is meant.
fn without_mark(program: &Path) -> PathBuf {
    match program.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => program.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_must_be_there() {
        let options = Options { ripstop: Some("/nonexistent/ripstop".into()), ..Options::default() };
        let error = Programs::find(&options).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ripstop"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn neighbours_are_found_beside_and_one_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("deps")).unwrap();
        std::fs::write(dir.path().join("ripstop"), "").unwrap();
        let expected = Some(dir.path().join("ripstop"));
        assert_eq!(near(&dir.path().join("deps/it-123"), "ripstop"), expected);
        assert_eq!(near(&dir.path().join("other"), "ripstop"), expected);
        assert_eq!(near(&dir.path().join("deps/it-123"), "ripstop-cni"), None);
        assert_eq!(without_mark(Path::new("/a/ripstop (deleted)")), Path::new("/a/ripstop"));
    }
}
