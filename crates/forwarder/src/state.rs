//! The file with the set-up in force.

use std::fs;
use std::io;
use std::path::Path;

use crate::control::Setup;

/// Reads it; nothing where there is no file, or one that is not understood: the agent will say it again.
pub fn read(file: &Path) -> Option<Setup> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("{}: {error}; waiting for the agent", file.display());
            return None;
        }
    };
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!("{}: {error}; waiting for the agent", file.display()))
        .ok()
}

/// Writes it, whole or not at all.
///
/// # Errors
/// Where the folder cannot be written to.
pub fn write(file: &Path, setup: &Setup) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec(setup)?)?;
    fs::rename(&new, file)
}

/// Removes it, so that the next start forwards nothing.
pub fn forget(file: &Path) {
    if let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("{}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_broken_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("udp-forward.json");
        assert_eq!(read(&file), None);
        let setup = Setup { device: "ripudp0".parse().unwrap(), listen: Vec::new(), peers: Vec::new() };
        write(&file, &setup).unwrap();
        assert_eq!(read(&file), Some(setup));
        forget(&file);
        assert_eq!(read(&file), None);
        forget(&file);
        fs::write(&file, b"{\"device\":").unwrap();
        assert_eq!(read(&file), None);
    }
}
