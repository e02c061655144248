//! One call of a runtime, typed: what the agent works with.

use std::fmt;

use ripstop_types::{ContainerId, IfName, Mac};
use serde::{Deserialize, Serialize};

use crate::args::CniArgs;
use crate::conf::NetConf;
use crate::env::{Environment, invalid};
use crate::error::Error;
use crate::runtime_config::RequestedIp;
use crate::version::{CniVersion, Verb};
use crate::wire::Request;

/// What identifies an attachment (section 3): a container and the name of an interface in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// A verb with the parameters it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "UPPERCASE")]
pub enum Call {
    /// Attach a pod.
    Add {
        /// Container and interface.
        attachment: Attachment,
        /// The path of the pod's network namespace; not looked at yet.
        netns: String,
        /// `CNI_ARGS`.
        args: CniArgs,
    },
    /// Undo ADD.
    Del {
        /// Container and interface.
        attachment: Attachment,
        /// The path of the pod's network namespace, if there still is one.
        netns: Option<String>,
        /// `CNI_ARGS`, as far as they could be read.
        args: CniArgs,
    },
    /// Compare with the result of ADD.
    Check {
        /// Container and interface.
        attachment: Attachment,
        /// The path of the pod's network namespace.
        netns: String,
        /// `CNI_ARGS`.
        args: CniArgs,
    },
    /// Remove what is not on [`NetConf::valid_attachments`].
    Gc,
    /// Say whether ADD can be served.
    Status,
    /// Name the versions. The plugin answers this itself.
    Version,
}

/// A request, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypedCall {
    /// Unique for each call of the runtime; the same when the plugin sends its request again.
    pub id: String,
    /// How often the plugin has sent this request, this time included.
    pub attempt: u32,
    /// How long the plugin waits for the answer, in milliseconds.
    pub timeout_ms: u64,
    /// The namespace may be the agent's own (`CNI_NETNS_OVERRIDE`).
    pub netns_override: bool,
    /// The verb and its parameters.
    pub call: Call,
    /// The configuration.
    pub conf: NetConf,
}

impl Call {
    /// Reads the environment; code 4 with the name of every variable concerned.
    pub fn from_env(env: &Environment) -> Result<Self, Error> {
        let verb = env.check()?;
        if matches!(verb, Verb::Gc | Verb::Status | Verb::Version) {
            return Ok(match verb {
                Verb::Gc => Self::Gc,
                Verb::Status => Self::Status,
                _ => Self::Version,
            });
        }
        let text = |name: &str| env.get(name).unwrap_or_default();
        let attachment = Attachment {
            container_id: parse("CNI_CONTAINERID", text("CNI_CONTAINERID"))?,
            ifname: parse("CNI_IFNAME", text("CNI_IFNAME"))?,
        };
        let netns = text("CNI_NETNS").to_owned();
        let args = CniArgs::parse(text("CNI_ARGS"), verb)?;
        Ok(match verb {
            Verb::Add => Self::Add { attachment, netns, args },
            Verb::Check => Self::Check { attachment, netns, args },
            _ => Self::Del { attachment, netns: Some(netns).filter(|n| !n.is_empty()), args },
        })
    }

    /// The verb alone.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Add { .. } => Verb::Add,
            Self::Del { .. } => Verb::Del,
            Self::Check { .. } => Verb::Check,
            Self::Gc => Verb::Gc,
            Self::Status => Verb::Status,
            Self::Version => Verb::Version,
        }
    }

    /// The attachment that ADD, DEL and CHECK are about.
    pub fn attachment(&self) -> Option<&Attachment> {
        match self {
            Self::Add { attachment, .. } | Self::Del { attachment, .. } | Self::Check { attachment, .. } => {
                Some(attachment)
            }
            _ => None,
        }
    }

    /// `CNI_ARGS` of ADD, DEL and CHECK.
    pub fn args(&self) -> Option<&CniArgs> {
        match self {
            Self::Add { args, .. } | Self::Del { args, .. } | Self::Check { args, .. } => Some(args),
            _ => None,
        }
    }

    /// The namespace's path, if the call has one.
    pub fn netns(&self) -> Option<&str> {
        match self {
            Self::Add { netns, .. } | Self::Check { netns, .. } => Some(netns),
            Self::Del { netns, .. } => netns.as_deref(),
            _ => None,
        }
    }
}

impl TypedCall {
    /// The addresses that the pod is to have: of `runtimeConfig`, else of `args.cni`, else of `CNI_ARGS` (CONVENTIONS.md:
    /// who understands the newer way must ignore the older).
    pub fn requested_ips(&self) -> &[RequestedIp] {
        let of_args = self.call.args().map_or(&[][..], |args| &args.ips);
        [&self.conf.runtime.ips[..], &self.conf.extra.ips, of_args]
            .into_iter()
            .find(|ips| !ips.is_empty())
            .unwrap_or(&[])
    }

    /// The hardware address that the pod is to have, by the same order.
    pub fn requested_mac(&self) -> Option<Mac> {
        self.conf.runtime.mac.or(self.conf.extra.mac).or_else(|| self.call.args()?.mac)
    }
}

impl Request {
    /// The typed call, or the refusal that the runtime is to get.
    pub fn decode(&self) -> Result<TypedCall, Error> {
        let call = Call::from_env(&self.env)?;
        let conf = NetConf::decode(self.config.get(), call.verb())?;
        let allow = self.env.get("CNI_NETNS_OVERRIDE").unwrap_or_default();
        Ok(TypedCall {
            id: self.id.clone(),
            attempt: self.attempt,
            timeout_ms: self.timeout_ms,
            netns_override: allow == "1" || allow.eq_ignore_ascii_case("true"),
            call,
            conf,
        })
    }

    /// The version in which an answer is to be printed, also where the configuration is refused.
    pub fn version(&self) -> CniVersion {
        let settings = crate::wire::Settings::read(&self.config).unwrap_or_default();
        settings.cni_version.and_then(|v| v.parse().ok()).unwrap_or(CniVersion::LATEST)
    }
}

fn parse<T: std::str::FromStr<Err = ripstop_types::Invalid>>(name: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|fault: ripstop_types::Invalid| invalid(name, text, &fault.accepted))
}
