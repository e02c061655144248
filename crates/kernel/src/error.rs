//! What can go wrong between a step and the kernel, in words that name the object and the likely cause.

use ripstop_netmodel::Key;
use ripstop_plan::Action;
use ripstop_types::IfName;

use crate::netlink::NetlinkError;
use crate::netns::NetnsError;

/// A step that was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: cannot {}: {fault}", verb(*.action))]
pub struct StepError {
    /// The object, as its key prints.
    pub object: Box<str>,
    /// What was to be done with it.
    pub action: Action,
    /// Why it was not.
    pub fault: Fault,
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The kernel refused.
    #[error("{text}{}", hint(.cause))]
    Refused {
        /// `errno`, positive.
        errno: i32,
        /// The kernel's own words, and the name of the errno.
        text: Box<str>,
        /// What usually is behind it.
        cause: Option<Box<str>>,
    },
    /// There is something of that name or destination that is not ours. It was left as it is.
    #[error("{holder}, which is not ours, is in the way; it is left as it is")]
    Foreign {
        /// What holds the place, and whose it is as far as the kernel tells.
        holder: Box<str>,
    },
    /// The link it needs is not there.
    #[error("there is no link {link}")]
    NoLink {
        /// The link.
        link: IfName,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A file (a record or a setting below /proc/sys) cannot be written.
    #[error("{path}: {error}{}", hint(.cause))]
    File {
        /// The file.
        path: Box<str>,
        /// `errno`, positive.
        errno: i32,
        /// What the system said.
        error: Box<str>,
        /// What usually is behind it.
        cause: Option<Box<str>>,
    },
    /// The forwarder of the backend `udp` does not do it.
    #[error("{0}")]
    Forwarder(Box<str>),
    /// The kernel does not take programs of ours, or what they go by.
    #[error("{0}")]
    Bpf(Box<str>),
    /// A program that has to be run does not do it.
    #[error("{0}")]
    Program(Box<str>),
    /// The step asks for something the kernel has no form for.
    #[error("{0}")]
    Unsupported(Box<str>),
    /// A step before it failed, and the run stopped there.
    #[error("a step before it failed")]
    NotRun,
}

impl Fault {
    /// Whether the namespace the object lives in does not exist.
    pub fn is_namespace_gone(&self) -> bool {
        matches!(self, Self::Namespace(error) if error.is_gone())
    }

    pub(crate) fn refused(error: &NetlinkError, cause: Option<String>) -> Self {
        Self::Refused { errno: error.errno, text: error.to_string().into(), cause: cause.map(Into::into) }
    }

    pub(crate) fn file(path: &str, error: &std::io::Error, cause: Option<&str>) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let text = error.raw_os_error().map_or_else(|| error.to_string(), errno_text);
        Self::File { path: path.into(), errno, error: text.into(), cause: cause.map(Into::into) }
    }

    pub(crate) fn of(self, key: &Key, action: Action) -> StepError {
        StepError { object: key.to_string().into(), action, fault: self }
    }
}

impl From<NetlinkError> for Fault {
    fn from(error: NetlinkError) -> Self {
        Self::refused(&error, None)
    }
}

/// The kernel could not be asked, or its answer not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {what}: {why}")]
pub struct ObserveError {
    /// What was asked for, and where.
    pub what: Box<str>,
    /// What is wrong.
    pub why: Box<str>,
    /// The namespace does not exist.
    pub namespace_gone: bool,
}

impl ObserveError {
    pub(crate) fn new(what: impl Into<Box<str>>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string().into(), namespace_gone: false }
    }

    pub(crate) fn netns(error: &NetnsError) -> Self {
        Self { namespace_gone: error.is_gone(), ..Self::new("a network namespace", error) }
    }
}

/// "File exists", without the number that the standard library puts behind.
pub(crate) fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Create => "make it",
        Action::Update => "change it",
        Action::Delete => "remove it",
        Action::Refuse => "do it",
    }
}

fn hint(cause: &Option<Box<str>>) -> String {
    cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default()
}
