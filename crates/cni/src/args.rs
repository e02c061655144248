//! `CNI_ARGS`: key and value pairs separated by semicolons (section 2, "Parameters"; CONVENTIONS.md, "CNI_ARGS").

use std::collections::BTreeMap;

use ripstop_types::{Mac, PodName};
use serde::{Deserialize, Serialize};

use crate::env::invalid;
use crate::error::Error;
use crate::runtime_config::RequestedIp;
use crate::version::Verb;

/// The pairs that Ripstop knows, typed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CniArgs {
    /// `K8S_POD_NAMESPACE` and `K8S_POD_NAME`. `None` without a name, and for runtimes that put names there which
    /// Kubernetes cannot have (podman: `my_container`).
    pub pod: Option<PodName>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container_id: Option<String>,
    /// `IP`: addresses asked for, separated by commas.
    pub ips: Vec<RequestedIp>,
    /// `MAC`: the hardware address asked for.
    pub mac: Option<Mac>,
    /// `IgnoreUnknown`: other keys are no error.
    pub ignore_unknown: bool,
    /// Other keys.
    pub unknown: BTreeMap<String, String>,
}

impl CniArgs {
    /// Reads the variable. Code 4, with the variable's name, for anything but pairs, for a value that does not fit its
    /// key, and for an unknown key unless `IgnoreUnknown` is true. A DEL takes what it can read and never fails.
    pub fn parse(text: &str, verb: Verb) -> Result<Self, Error> {
        let mut args = Self::default();
        let (mut namespace, mut name) = (None, None);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let read = match pair.split_once('=') {
                Some(("K8S_POD_NAMESPACE", value)) => {
                    namespace = Some(value);
                    Ok(())
                }
                Some(("K8S_POD_NAME", value)) => {
                    name = Some(value);
                    Ok(())
                }
                Some((key, value)) if !key.is_empty() => args.set(key, value),
                _ => Err(invalid(
                    "CNI_ARGS",
                    text,
                    &format!("KEY=VALUE pairs separated by ';', and {pair:?} is not one"),
                )),
            };
            match read {
                Err(error) if verb != Verb::Del => return Err(error),
                _ => {}
            }
        }
        args.pod = name.and_then(|name| PodName::new(namespace.unwrap_or("default"), name).ok());
        if !args.unknown.is_empty() && !args.ignore_unknown && verb != Verb::Del {
            let keys: Vec<&str> = args.unknown.keys().map(String::as_str).collect();
            let rule = format!("without unknown keys ({}), or have IgnoreUnknown=1", keys.join(", "));
            return Err(invalid("CNI_ARGS", text, &rule));
        }
        Ok(args)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let refuse = |rule: &str| Err(invalid("CNI_ARGS", &format!("{key}={value}"), rule));
        match key {
            "IgnoreUnknown" => match value.to_ascii_lowercase().as_str() {
                "1" | "true" => self.ignore_unknown = true,
                "0" | "false" => self.ignore_unknown = false,
                _ => return refuse("IgnoreUnknown=1, 0, true or false"),
            },
            "K8S_POD_UID" => self.pod_uid = Some(value.to_owned()).filter(|v| !v.is_empty()),
            "K8S_POD_INFRA_CONTAINER_ID" => self.infra_container_id = Some(value.to_owned()).filter(|v| !v.is_empty()),
            "IP" => match value.split(',').map(|ip| ip.trim().parse()).collect() {
                Ok(ips) => self.ips = ips,
                Err(_) => return refuse("IP=ADDRESS[/LENGTH], several separated by commas"),
            },
            "MAC" => match value.parse::<Mac>() {
                Ok(mac) if mac.is_unicast() => self.mac = Some(mac),
                _ => return refuse("MAC= a unicast hardware address, as 0a:58:0a:f4:01:02"),
            },
            _ => {
                self.unknown.insert(key.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn what_containerd_sends_is_understood() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=f00;K8S_POD_UID=u-1;X=y";
        let args = CniArgs::parse(text, Verb::Add).unwrap();
        assert_eq!(args.pod.unwrap().to_string(), "shop/web-1");
        assert_eq!(args.pod_uid.as_deref(), Some("u-1"));
        assert_eq!(args.infra_container_id.as_deref(), Some("f00"));
        assert_eq!(args.unknown, BTreeMap::from([("X".to_owned(), "y".to_owned())]));
    }

    #[test]
    fn addresses_and_mac_are_typed() {
        let args = CniArgs::parse("IP=10.244.1.9/24,fd00::9;MAC=0a:58:0a:f4:01:02;", Verb::Add).unwrap();
        assert_eq!(args.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.9/24", "fd00::9"]);
        assert_eq!(args.mac.unwrap().to_string(), "0a:58:0a:f4:01:02");
    }

    #[test]
    fn faults_name_the_variable_and_a_del_passes_over_them() {
        for bad in ["FOO=BAR", "FOO", "=x", "IP=10.0.0", "MAC=xx", "MAC=ff:ff:ff:ff:ff:ff", "IgnoreUnknown=perhaps"] {
            let error = CniArgs::parse(bad, Verb::Add).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment, "{bad}");
            assert!(error.msg.contains("CNI_ARGS") && error.msg.contains(bad), "{error}");
            assert!(CniArgs::parse(bad, Verb::Del).is_ok(), "{bad}");
        }
        assert!(CniArgs::parse("FOO=BAR;IgnoreUnknown=true", Verb::Add).is_ok());
    }

    #[test]
    fn a_name_that_kubernetes_cannot_have_is_no_pod() {
        let args = CniArgs::parse("K8S_POD_NAME=My_Container;K8S_POD_NAMESPACE=My_Container", Verb::Add).unwrap();
        assert_eq!(args.pod, None);
        assert_eq!(CniArgs::parse("K8S_POD_NAME=web", Verb::Add).unwrap().pod.unwrap().to_string(), "default/web");
    }
}
