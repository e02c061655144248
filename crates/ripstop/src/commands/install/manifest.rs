//! The objects of a cluster that runs Ripstop: those of `deploy/ripstop.yaml`, with what the command line says otherwise.
//!
//! Not here: who takes them to a cluster. Invariant: without options the objects are those of the file.

use ripstop_objects::AgentConfig;
use ripstop_types::Fnv1a as _;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::print::yaml;

const INSTALL: &str = include_str!("../../../../../deploy/ripstop.yaml");
const UNINSTALL: &str = include_str!("../../../../../deploy/uninstall.yaml");

/// What is otherwise than in the file.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// The image of all containers.
    pub image: Option<&'a str>,
    /// The agents' whole configuration.
    pub config: Option<&'a str>,
    /// The backend of the networks in the configuration.
    pub backend: Option<&'a str>,
    /// Their wiring.
    pub wiring: Option<&'a str>,
    /// Their ranges.
    pub ranges: &'a [String],
    /// What serves Services.
    pub proxy: Option<&'a str>,
    /// Host and port of the API server, for agents that cannot reach it by its Service.
    pub api_server: Option<(&'a str, u16)>,
}

/// The objects, in the order in which they come.
///
/// # Errors
/// Where the configuration is none.
pub fn objects(changes: &Changes<'_>) -> Result<Vec<Value>, Failure> {
    let mut objects = documents(INSTALL)?;
    let config = configuration(&mut objects, changes)?;
    for object in objects.iter_mut().filter(|object| object["kind"] == "DaemonSet") {
        if let Some(image) = changes.image {
            set_image(object, image);
        }
        if let Some(config) = &config
            && object["metadata"]["name"] == "ripstop-agent"
        {
            // Agents read it when they start: another one starts them anew, node by node.
            object["spec"]["template"]["metadata"]["annotations"]["ripstop.io/config"] = mark(config).into();
        }
        if let Some((host, port)) = changes.api_server
            && object["metadata"]["name"] == "ripstop-agent"
        {
            let variables =
                [("KUBERNETES_SERVICE_HOST", host.to_owned()), ("KUBERNETES_SERVICE_PORT", port.to_string())];
            let env = object["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut();
            env.into_iter().for_each(|env| env.extend(variables.iter().map(|(k, v)| json!({"name": k, "value": v}))));
        }
    }
    Ok(objects)
}

/// The objects that take all nodes' agents out.
///
/// # Errors
/// Where the text that is built in is no YAML.
pub fn uninstall(image: Option<&str>) -> Result<Vec<Value>, Failure> {
    let mut objects = documents(UNINSTALL)?;
    if let Some(image) = image {
        objects.iter_mut().for_each(|object| set_image(object, image));
    }
    Ok(objects)
}

/// The objects as YAML documents.
pub fn text(objects: &[Value]) -> String {
    objects.iter().map(yaml::document).collect::<Vec<_>>().join("---\n")
}

fn documents(text: &str) -> Result<Vec<Value>, Failure> {
    let read = |text| serde_saphyr::from_str(text).map_err(|error| Failure::Failed(format!("the manifest: {error}")));
    // One by one: a name given to a part is known in its document alone.
    text.split("\n---\n").map(read).collect()
}

/// Puts another configuration into its object and returns it, where there is another.
fn configuration(objects: &mut [Value], changes: &Changes<'_>) -> Result<Option<String>, Failure> {
    let object = objects.iter_mut().find(|object| object["kind"] == "ConfigMap");
    let Some(text) = object.map(|object| &mut object["data"]["config.yaml"]) else { return Ok(None) };
    let old = text.as_str().unwrap_or_default().to_owned();
    let mut new = changes.config.map_or_else(|| old.clone(), str::to_owned);
    if changes.backend.or(changes.wiring).or(changes.proxy).is_some() || !changes.ranges.is_empty() {
        let mut document: Value =
            serde_saphyr::from_str(&new).map_err(|error| Failure::Usage(format!("the configuration: {error}")))?;
        for network in document["networks"].as_array_mut().into_iter().flatten() {
            let spec = &mut network["spec"];
            if let Some(backend) = changes.backend {
                spec["backend"]["type"] = backend.into();
            }
            if let Some(wiring) = changes.wiring {
                spec["wiring"] = wiring.into();
            }
            if !changes.ranges.is_empty() {
                spec["ranges"] = json!(changes.ranges);
            }
        }
        if let Some(proxy) = changes.proxy {
            document["services"]["proxy"] = proxy.into();
        }
        new = yaml::document(&document);
    }
    if new == old {
        return Ok(None);
    }
    // What the agents would refuse is refused here.
    AgentConfig::decode(&new).map_err(|faults| Failure::Usage(format!("the configuration: {faults}")))?;
    *text = new.clone().into();
    Ok(Some(new))
}

fn set_image(set: &mut Value, image: &str) {
    let spec = &mut set["spec"]["template"]["spec"];
    for kind in ["initContainers", "containers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            container["image"] = image.into();
        }
    }
}

/// A short word that is another for another text.
fn mark(text: &str) -> String {
    format!("{:016x}", u64::of(text.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<'a>(objects: &'a [Value], name: &str) -> &'a Value {
        objects.iter().find(|object| object["kind"] == "DaemonSet" && object["metadata"]["name"] == name).unwrap()
    }

    fn containers(set: &Value) -> Vec<Value> {
        let spec = &set["spec"]["template"]["spec"];
        ["initContainers", "containers"].iter().filter_map(|kind| spec[*kind].as_array().cloned()).flatten().collect()
    }

    #[test]
    fn without_options_the_objects_are_those_of_the_file() {
        let objects = objects(&Changes::default()).unwrap();
        let again: Vec<Value> = documents(&text(&objects)).unwrap();
        assert_eq!(objects, again, "what is printed reads as what was printed");
        assert_eq!(objects, documents(INSTALL).unwrap());
        let image = concat!("ripstop.io/ripstop:", env!("CARGO_PKG_VERSION"));
        for set in objects.iter().chain(&uninstall(None).unwrap()).filter(|object| object["kind"] == "DaemonSet") {
            for container in containers(set) {
                assert_eq!(container["image"], image);
                assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
                assert!(container["securityContext"].get("privileged").is_none());
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
            }
        }
    }

    #[test]
    fn options_change_what_they_name() {
        let config = "networks: [{metadata: {name: default}, spec: {ranges: [10.1.0.0/16]}}]";
        let ranges = ["10.9.0.0/16".to_owned(), "fd00:9::/48".to_owned()];
        let changes = Changes {
            image: Some("registry.invalid/r:1"),
            config: Some(config),
            backend: Some("udp"),
            wiring: Some("bridge"),
            ranges: &ranges,
            proxy: Some("nftables"),
            api_server: Some(("192.0.2.1", 6443)),
        };
        let objects = objects(&changes).unwrap();
        let map = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        let written: Value = serde_saphyr::from_str(map["data"]["config.yaml"].as_str().unwrap()).unwrap();
        let spec = json!({"ranges": ranges, "backend": {"type": "udp"}, "wiring": "bridge"});
        assert_eq!(written["networks"][0]["spec"], spec);
        assert_eq!(written["services"]["proxy"], "nftables");
        let agent = set(&objects, "ripstop-agent");
        let env = &agent["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(env[0]["name"], "NODE_NAME");
        assert_eq!(env[1], json!({"name": "KUBERNETES_SERVICE_HOST", "value": "192.0.2.1"}));
        assert_eq!(env[2], json!({"name": "KUBERNETES_SERVICE_PORT", "value": "6443"}));
        let forwarder = set(&objects, "ripstop-udp-forward");
        assert!(forwarder["spec"]["template"]["spec"].get("initContainers").is_none(), "nothing is added");
        assert!(containers(agent).iter().all(|container| container["image"] == "registry.invalid/r:1"));
        let marks = &agent["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(marks["ripstop.io/config"].as_str().unwrap().len(), 16, "a new configuration starts agents anew");
    }

    #[test]
    fn what_agents_would_refuse_is_refused() {
        let changes =
            Changes { config: Some("networks: [{metadata: {name: a}, spec: {ranges: [x]}}]"), ..Changes::default() };
        let failure = objects(&changes).unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().contains("ranges"), "{failure}");
    }
}
