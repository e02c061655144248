//! What an API server's answers mean, each in a sentence.

use http::StatusCode;
use serde::Deserialize;

use super::http::{Answer, Lost};
use crate::StoreError;

/// The part of a `Status` (apimachinery's meta/v1) that is looked at.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub code: u16,
}

impl Status {
    /// Whether an answer says that there is no such object. Where it is the kind that is not there, it does not.
    pub(super) fn says_absent(answer: &Answer) -> bool {
        answer.status == StatusCode::NOT_FOUND && Self::of(answer).reason == "NotFound"
    }

    pub(super) fn of(answer: &Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// The object or the revision is known to be no more.
    pub(super) fn is_gone(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_str(), "Expired" | "Gone")
    }
}

/// Which manifest a cluster lacks.
const APPLY: &str = "apply deploy/ripstop.yaml";

/// A call that got no answer.
pub(super) fn lost(peer: &str, tried: &str, writes: bool, lost: Lost) -> StoreError {
    if lost.lasting {
        // Something here is wrong, not the server.
        return StoreError::Away { tried: format!("kubernetes: {tried}"), cause: lost.cause, maybe_applied: false };
    }
    let cause = if lost.cause.contains("Connection refused") {
        format!("{}: is kube-apiserver running there?", lost.cause)
    } else {
        lost.cause
    };
    StoreError::Away { tried: format!("kubernetes {peer}: {tried}"), cause, maybe_applied: writes && lost.sent }
}

/// A server, or what is said there, that is no use however often it is asked.
pub(super) fn refusal(peer: &str, cause: String) -> StoreError {
    StoreError::Refused { peer: format!("kubernetes {peer}"), cause }
}

/// Whether what answered `/version` is a server that is supported.
pub(super) fn supported(peer: &str, answer: &Answer) -> Result<(), StoreError> {
    too_old(&answer.body).map_or(Ok(()), |cause| Err(refusal(peer, cause)))
}

/// An answer that is neither success nor something a caller expected.
pub(super) fn refused(peer: &str, tried: &str, writes: bool, answer: &Answer) -> StoreError {
    let status = Status::of(answer);
    let said = if status.message.is_empty() {
        format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).trim())
    } else {
        status.message.chars().take(600).collect::<String>().replace('\n', " ")
    };
    let refused = |cause: String| refusal(peer, cause);
    let away = |done: bool| StoreError::Away {
        tried: format!("kubernetes {peer}: {tried}"),
        cause: said.clone(),
        maybe_applied: writes && done,
    };
    match answer.status {
        StatusCode::UNAUTHORIZED => {
            refused(format!("{tried}: it does not know who asks: see the token or certificate of the kubeconfig"))
        }
        StatusCode::FORBIDDEN if said.contains("cannot") => {
            refused(format!("{tried}: {said}: {APPLY}, which allows it"))
        }
        StatusCode::NOT_FOUND if status.reason.is_empty() => {
            refused(format!("{tried}: it does not have that kind of object: {APPLY}"))
        }
        StatusCode::NOT_FOUND => refused(format!("{tried}: {said}: {APPLY}")),
        StatusCode::BAD_REQUEST if said.contains("unknown field") => {
            refused(format!("{tried}: {said}: its definition of the kind is older than this agent: {APPLY}"))
        }
        StatusCode::TOO_MANY_REQUESTS => away(false),
        code if code.is_server_error() => away(true),
        _ => refused(format!("{tried}: {said}")),
    }
}

/// The least version with all that is used here: address ranges in expressions (CEL) of definitions, and selectable fields.
const LEAST: (u64, u64) = (1, 31);

/// What is wrong with a server's version, as `/version` tells it.
fn too_old(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let Ok(Version { git_version }) = serde_json::from_slice(text) else {
        return Some("what answers there is no API server of Kubernetes: it has no version".into());
    };
    let mut numbers = git_version.trim_start_matches('v').split(['.', '-', '+']).map(str::parse::<u64>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => return Some(format!("its version is {git_version:?}, which is none of Kubernetes'")),
    };
    (version < LEAST).then(|| {
        let (major, minor) = LEAST;
        format!("it is Kubernetes {git_version}, which is not supported: {major}.{minor} or later is")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let judge = |version: &str| too_old(format!("{{\"gitVersion\": {version:?}}}").as_bytes());
        for good in ["v1.31.0", "v1.36.2", "v1.100.0-rc.1+k3s1", "v2.0.0"] {
            assert_eq!(judge(good), None, "{good}");
        }
        for bad in ["v1.30.15", "v1.9.0", "v0.99.0"] {
            assert!(judge(bad).unwrap().contains("1.31 or later"), "{bad}");
        }
        assert!(judge("new").unwrap().contains("none of Kubernetes'"));
        assert!(too_old(b"<html>").unwrap().contains("no API server"));
    }

    #[test]
    fn every_answer_is_a_sentence() {
        let say = |code: u16, body: &str| {
            let answer = Answer { status: StatusCode::from_u16(code).unwrap(), body: body.to_owned().into() };
            refused("https://k", "list networks.ripstop.io", true, &answer).to_string()
        };
        let status = |reason: &str, message: &str| format!("{{\"reason\": {reason:?}, \"message\": {message:?}}}");
        assert!(say(401, "").contains("does not know who asks"));
        assert!(say(404, "404 page not found").contains("apply deploy/ripstop.yaml"));
        let forbidden =
            say(403, &status("Forbidden", "networks.ripstop.io is forbidden: User \"u\" cannot list resource"));
        assert!(forbidden.contains("cannot list") && forbidden.contains("apply deploy/ripstop.yaml"), "{forbidden}");
        assert!(say(500, &status("InternalError", "etcd")).contains("may have been made"));
        assert!(!say(429, &status("TooManyRequests", "wait")).contains("may have been made"));
        assert!(say(422, &status("Invalid", "spec.node: Required")).contains("spec.node: Required"));
        assert!(
            say(400, &status("BadRequest", "strict: unknown field \"spec.new\"")).contains("older than this agent")
        );
    }
}
