//! Settings below /proc/sys, in the calling thread's network namespace.
//!
//! The kernel looks up everything below /proc/sys/net by the namespace of the thread that opens the file, so whoever
//! means another namespace enters it first.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};

use crate::error::Fault;

/// The value as one reads it back: without the line's end, fields separated by one blank.
pub(crate) fn read(path: &str) -> Result<Option<String>, Fault> {
    let file = file(path)?;
    match fs::read_to_string(&file) {
        Ok(text) => Ok(Some(normal(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::file(&file, &error, None)),
    }
}

/// Writes a value; writes nothing where it is there already, so that read-only trees do where nothing need be changed.
pub(crate) fn write(path: &str, value: &str) -> Result<(), Fault> {
    let file = file(path)?;
    let written = OpenOptions::new().write(true).open(&file).and_then(|mut f| f.write_all(value.as_bytes()));
    let Err(error) = written else { return Ok(()) };
    if matches!(read(path), Ok(Some(there)) if there == normal(value)) {
        return Ok(());
    }
    let cause = match error.raw_os_error() {
        Some(libc::ENOENT) => Some("this kernel has no such setting, or the link it belongs to is gone"),
        Some(libc::EROFS) => Some("/proc/sys is mounted read-only; the agent's container must be privileged"),
        Some(libc::EINVAL) => Some("the kernel does not accept this value"),
        Some(libc::EACCES | libc::EPERM) => Some("the agent needs root and CAP_NET_ADMIN"),
        _ => None,
    };
    Err(Fault::file(&file, &error, cause))
}

fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn file(path: &str) -> Result<String, Fault> {
    let odd = path.is_empty() || path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if odd {
        return Err(Fault::Unsupported(format!("{path:?} is not a path below /proc/sys").into()));
    }
    Ok(format!("/proc/sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_proc_sys() {
        for bad in ["", "/etc/passwd", "net/../../../etc/passwd", "net//ipv4", "."] {
            assert!(matches!(write(bad, "1"), Err(Fault::Unsupported(_))), "{bad}");
        }
    }

    #[test]
    fn values_come_without_the_lines_end() {
        assert!(read("kernel/ostype").unwrap().is_some_and(|text| text == "Linux"));
        assert_eq!(read("net/no/such/setting").unwrap(), None);
        let fault = write("net/no/such/setting", "1").unwrap_err();
        assert!(fault.to_string().contains("no such setting"), "{fault}");
    }
}
