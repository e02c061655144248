//! Objects taken to a cluster and out of it, with progress, and with what keeps a node from being ready.

use std::fmt::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ripstop_objects::Kubeconfig;
use ripstop_store::{Access, Api, CLUSTER_NAMESPACE, CONTROLLER, OVER, StoreError, before_now};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;
use crate::print::talk;
use crate::print::text::cell;

/// The namespace of all objects that are in one.
pub const NAMESPACE: &str = "ripstop";
/// The longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// What an agent has not repeated for this long may be of one that is gone: it does so every five minutes.
const UNTOLD: Duration = Duration::from_secs(900);

/// A cluster whose API is asked.
pub struct Remote {
    kubeconfig: PathBuf,
    api: Api,
    runtime: Runtime,
    begin: Instant,
}

/// Whether the brackets around an IPv6 address are both there or none is.
fn balanced(host: &str) -> bool {
    host.starts_with('[') == host.ends_with(']')
}

/// How far a DaemonSet is.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// Nodes that shall have a pod of it.
    pub wanted: u64,
    /// Nodes whose pod is of its present form and ready.
    pub ready: u64,
    done: bool,
}

impl Progress {
    /// Whether it is as it shall be everywhere.
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn of(set: &Value) -> Self {
        let (status, number) = (&set["status"], |value: &Value| value.as_u64().unwrap_or_default());
        let wanted = number(&status["desiredNumberScheduled"]);
        let ready = number(&status["numberReady"]).min(number(&status["updatedNumberScheduled"]));
        let seen = number(&status["observedGeneration"]) >= number(&set["metadata"]["generation"]);
        Self { wanted, ready, done: seen && ready == wanted }
    }
}

impl Remote {
    /// The cluster of a kubeconfig: this one, or that of `KUBECONFIG`, or `~/.kube/config`. It is asked for its version.
    ///
    /// # Errors
    /// Where it cannot be asked, or is too old.
    pub fn open(kubeconfig: Option<PathBuf>) -> Result<Self, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path =
            kubeconfig.or_else(|| set("KUBECONFIG")).or_else(|| set("HOME").map(|home| home.join(".kube/config")));
        let path = path.ok_or_else(|| Failure::Usage("no kubeconfig: name one with --kubeconfig".into()))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::system("cannot start", &error))?;
        let api = Api::new(Access::Kubeconfig(path.clone()), ANSWER);
        runtime.block_on(api.check()).map_err(failure)?;
        Ok(Self { kubeconfig: path, api, runtime, begin: Instant::now() })
    }

    /// Host and port of the API server, as its kubeconfig names them.
    ///
    /// # Errors
    /// Where that cannot be read any more, or names none.
    pub fn server(&self) -> Result<(String, u16), Failure> {
        let cannot = |error| Failure::system(&format!("cannot read {}", self.kubeconfig.display()), &error);
        let text = std::fs::read_to_string(&self.kubeconfig).map_err(cannot)?;
        let config = Kubeconfig::decode(&text).map_err(|faults| Failure::Failed(faults.to_string()))?;
        let server = config.server.trim_start_matches("https://");
        let authority = server.split('/').next().unwrap_or(server);
        let (host, port) = match authority.rsplit_once(':').filter(|(host, _)| !host.ends_with(':') && balanced(host)) {
            Some((host, port)) => (host, port.parse().ok()),
            None => (authority, Some(443)),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.filter(|port| *port != 0);
        port.map(|port| (host.to_owned(), port)).ok_or_else(|| {
            Failure::Failed(format!("the kubeconfig's server {} has no port; --api-server names one", config.server))
        })
    }

    /// Applies objects in their order.
    ///
    /// # Errors
    /// Where one is refused; those before it stay, and a second call goes on.
    pub fn apply(&self, objects: &[Value]) -> Result<(), Failure> {
        for object in objects {
            self.runtime.block_on(self.api.apply(&path(object)?, object)).map_err(failure)?;
            self.say(&format!("{} is applied", name(object)));
        }
        Ok(())
    }

    /// Waits until every node's pod of a DaemonSet is ready.
    ///
    /// # Errors
    /// Where it is not in time; the sentence says what each node lacks.
    pub fn await_set(&self, set: &str, limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        let mut told = String::new();
        loop {
            let progress = self.progress(set)?;
            let shown = progress.as_ref().map_or_else(
                || format!("{set}: there is none"),
                |Progress { wanted, ready, .. }| format!("{set}: {ready} of {wanted} nodes ready"),
            );
            if told != shown {
                self.say(&shown);
                told = shown;
            }
            if progress.is_some_and(|progress| progress.done) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let mut text = format!("{told} within {limit:?}");
                for fault in self.faults(set)? {
                    let _ = write!(text, "\n{fault}");
                }
                return Err(Failure::Failed(text));
            }
            thread::sleep(LOOK);
        }
    }

    /// How far a DaemonSet is; nothing where there is none.
    ///
    /// # Errors
    /// Where the API gives no answer.
    pub fn progress(&self, set: &str) -> Result<Option<Progress>, Failure> {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{set}");
        Ok(self.runtime.block_on(self.api.get(&path)).map_err(failure)?.map(|set| Progress::of(&set)))
    }

    /// What keeps pods of a DaemonSet from being ready, a node a line.
    ///
    /// # Errors
    /// Where the API gives no answer.
    pub fn faults(&self, set: &str) -> Result<Vec<String>, Failure> {
        let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let path = format!("{pods}?labelSelector=app.kubernetes.io%2Fname%3D{set}");
        let list = self.runtime.block_on(self.api.get(&path)).map_err(failure)?.unwrap_or_default();
        let mut faults = Vec::new();
        for pod in list["items"].as_array().into_iter().flatten().filter(|pod| !is_ready(pod)) {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or("no node yet");
            let why = match why(pod) {
                Some(why) => why,
                // It runs and is not ready: it says why itself.
                None => {
                    let (pod, of) = (pod["metadata"]["name"].as_str().unwrap_or_default(), "log?tailLines=3");
                    let log = self.runtime.block_on(self.api.text(&format!("{pods}/{pod}/{of}"))).map_err(failure)?;
                    format!("runs and is not ready; its last lines: {}", log.trim().replace('\n', " | "))
                }
            };
            faults.push(format!("{node}: {why}"));
        }
        faults.sort();
        Ok(faults)
    }

    /// What agents say their nodes lack, a node a line: their Events that are not over.
    ///
    /// # Errors
    /// Where the API gives no answer.
    pub fn warnings(&self) -> Result<Vec<String>, Failure> {
        let of = format!("reportingController%3D{}", CONTROLLER.replace('/', "%2F"));
        let path = format!("/apis/events.k8s.io/v1/namespaces/{CLUSTER_NAMESPACE}/events?fieldSelector={of}");
        let list = self.runtime.block_on(self.api.get(&path)).map_err(failure)?.unwrap_or_default();
        Ok(warnings(&list, &before_now(UNTOLD)))
    }

    /// Deletes objects, the last first, and waits until they are gone.
    ///
    /// # Errors
    /// Where one is refused, or stays.
    pub fn remove(&self, objects: &[Value], limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        for object in objects.iter().rev() {
            self.runtime.block_on(self.api.delete(&path(object)?)).map_err(failure)?;
        }
        for object in objects.iter().rev() {
            let path = path(object)?;
            while self.runtime.block_on(self.api.get(&path)).map_err(failure)?.is_some() {
                if Instant::now() >= deadline {
                    return Err(Failure::Failed(format!("{} is still there after {limit:?}", name(object))));
                }
                thread::sleep(LOOK);
            }
            self.say(&format!("{} is gone", name(object)));
        }
        Ok(())
    }

    /// What is at a path; nothing where there is nothing.
    ///
    /// # Errors
    /// Where the API gives no answer.
    pub fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        self.runtime.block_on(self.api.get(path)).map_err(failure)
    }

    /// The text at a path, empty where there is nothing.
    ///
    /// # Errors
    /// Where the API gives no answer.
    pub fn text(&self, path: &str) -> Result<String, Failure> {
        self.runtime.block_on(self.api.text(path)).map_err(failure)
    }

    /// Pods that a selector of labels finds, of a node where one is named.
    ///
    /// # Errors
    /// Where the API gives no answer.
    pub fn pods(&self, namespace: &str, selector: &str, node: &str) -> Result<Vec<Value>, Failure> {
        let selector = selector.replace('=', "%3D").replace('/', "%2F").replace(',', "%2C");
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
        let list = self.get(&path)?.unwrap_or_default();
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.into_iter().filter(|pod| node.is_empty() || pod["spec"]["nodeName"] == node).collect())
    }

    /// Says some fields of an object of others; what was said before and is not now goes.
    ///
    /// # Errors
    /// Where it is refused, or the object is not there.
    pub fn change(&self, path: &str, fields: &Value) -> Result<(), Failure> {
        self.runtime.block_on(self.api.apply(path, fields)).map_err(failure)
    }

    /// Deletes what is at a path.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn delete(&self, path: &str) -> Result<(), Failure> {
        self.runtime.block_on(self.api.delete(path)).map(drop).map_err(failure)
    }

    /// Tells what happened, with the seconds since the beginning.
    pub fn say(&self, what: &str) {
        talk(&format!("{:6.1} s  {what}", self.begin.elapsed().as_secs_f64()));
    }
}

/// Lines of what nodes lack, out of a list of Events, but for those that were last seen before a moment.
fn warnings(list: &Value, since: &str) -> Vec<String> {
    let lasts = |event: &&Value| {
        let seen = event["series"]["lastObservedTime"].as_str().or(event["eventTime"].as_str()).unwrap_or_default();
        event["regarding"]["kind"] == "Node" && event["metadata"]["annotations"][OVER].is_null() && seen >= since
    };
    let events = list["items"].as_array().into_iter().flatten().filter(lasts);
    let line = |event: &Value| format!("{}: {}", cell(&event["regarding"]["name"]), cell(&event["note"]));
    let mut lines: Vec<String> = events.map(line).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Away { .. } => Failure::Away(error.reason()),
        _ => Failure::Failed(error.to_string()),
    }
}

fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// Where an object is.
fn path(object: &Value) -> Result<String, Failure> {
    const KINDS: &[(&str, &str)] = &[
        ("ClusterRole", "clusterroles"),
        ("ClusterRoleBinding", "clusterrolebindings"),
        ("ConfigMap", "configmaps"),
        ("CustomResourceDefinition", "customresourcedefinitions"),
        ("DaemonSet", "daemonsets"),
        ("Namespace", "namespaces"),
        ("Role", "roles"),
        ("RoleBinding", "rolebindings"),
        ("ServiceAccount", "serviceaccounts"),
    ];
    let kind = KINDS.iter().find(|(kind, _)| object["kind"] == *kind);
    let (_, plural) =
        kind.ok_or_else(|| Failure::Failed(format!("the manifest has {}, which is not known", name(object))))?;
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let base = if version.contains('/') { "apis" } else { "api" };
    let namespace =
        object["metadata"]["namespace"].as_str().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    Ok(format!("/{base}/{version}{namespace}/{plural}/{}", object["metadata"]["name"].as_str().unwrap_or_default()))
}

fn conditions(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["conditions"].as_array().into_iter().flatten()
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    conditions(pod).any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// What keeps a pod from running, where Kubernetes knows it.
fn why(pod: &Value) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let unscheduled =
        conditions(pod).find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    if let Some(condition) = unscheduled {
        return Some(text(&condition["message"]));
    }
    let kinds = ["initContainerStatuses", "containerStatuses"];
    let states = kinds.into_iter().flat_map(|kind| pod["status"][kind].as_array().into_iter().flatten());
    for status in states {
        let (container, waiting) = (text(&status["name"]), &status["state"]["waiting"]);
        let reason = text(&waiting["reason"]);
        if reason.contains("Image") {
            return Some(format!(
                "container {container}: the node has no image {} and cannot get it ({reason}): import it there, or name another \
                 with --image",
                text(&status["image"])
            ));
        }
        let ended = [&status["state"]["terminated"], &status["lastState"]["terminated"]];
        if let Some(ended) = ended.into_iter().find(|ended| ended["exitCode"].as_i64().is_some_and(|code| code != 0)) {
            return Some(format!("container {container} ended: {}", text(&ended["message"])));
        }
        if waiting.is_object() && !matches!(reason.as_str(), "PodInitializing" | "ContainerCreating") {
            return Some(format!("container {container}: {reason}: {}", text(&waiting["message"])));
        }
        if waiting.is_object() {
            return Some(format!("container {container} is not started yet"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_have_their_paths() {
        let of = |version: &str, kind: &str, namespace: Option<&str>| {
            path(&json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": namespace}}))
        };
        assert_eq!(of("v1", "Namespace", None).unwrap(), "/api/v1/namespaces/x");
        let set = of("apps/v1", "DaemonSet", Some("ripstop")).unwrap();
        assert_eq!(set, "/apis/apps/v1/namespaces/ripstop/daemonsets/x");
        assert!(of("v1", "Secret", None).is_err());
    }

    #[test]
    fn what_nodes_lack_is_a_line_as_long_as_it_lasts() {
        let event = |node: &str, over: Option<&str>, seen: &str| {
            json!({
                "metadata": {"annotations": over.map(|over| json!({OVER: over}))}, "note": format!("{node} is full\n"),
                "regarding": {"kind": "Node", "name": node}, "eventTime": "2026-01-01T10:00:00.000000Z",
                "series": {"count": 2, "lastObservedTime": seen},
            })
        };
        let pod = json!({"metadata": {}, "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-02T00:00:00.000000Z"});
        let (early, late) = ("2026-01-01T11:00:00.000000Z", "2026-01-01T12:00:00.000000Z");
        let items = [
            event("n2", None, late),
            event("n1", None, late),
            event("n3", Some(late), late),
            event("n4", None, early),
            pod,
        ];
        let lines = warnings(&json!({"items": items}), "2026-01-01T11:30:00.000000Z");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("n1: n1 is full") && lines[1].starts_with("n2: "), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
    }

    #[test]
    fn a_set_is_ready_once_all_pods_are_of_its_present_form() {
        let set = |generation: u64, updated: u64| {
            json!({"metadata": {"generation": 2}, "status": {
                "observedGeneration": generation, "desiredNumberScheduled": 3, "numberReady": 3, "updatedNumberScheduled": updated,
            }})
        };
        assert!(Progress::of(&set(2, 3)).done);
        assert!(!Progress::of(&set(1, 3)).done && !Progress::of(&set(2, 2)).done);
        assert!(!Progress::of(&json!({"metadata": {"generation": 1}})).done, "nobody has looked at it yet");
    }

    #[test]
    fn what_a_node_lacks_is_named() {
        let pod = |statuses: Value| json!({"status": {"containerStatuses": [statuses]}});
        let image = json!({"name": "agent", "image": "r:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}});
        assert!(why(&pod(image)).unwrap().contains("no image r:1"));
        let ended = json!({
            "name": "agent", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "error: uplink: no interface eth7\n"}},
        });
        assert_eq!(why(&pod(ended)).unwrap(), "container agent ended: error: uplink: no interface eth7");
        assert_eq!(why(&pod(json!({"name": "agent", "state": {"running": {}}}))), None);
    }
}
