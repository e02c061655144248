//! What etcd's faults mean, each in a sentence.

use std::error::Error;

use tonic::{Code, Status};

use super::options::EtcdOptions;
use crate::StoreError;

/// What came of a call that failed.
pub(super) struct Judged {
    pub fault: StoreError,
    /// The member cannot be used: another is to be tried.
    pub lost: bool,
    /// The call was not done, and may be done by another connection.
    pub again: bool,
}

/// The oldest revisions were forgotten.
pub(super) fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("compacted")
}

/// Judges the answer to a call. `writes`: it may have changed something.
pub(super) fn judge(options: &EtcdOptions, peer: &str, tried: &str, writes: bool, status: &Status) -> Judged {
    let said = status.message();
    let refused = |cause: String| Judged {
        fault: StoreError::Refused { peer: format!("etcd {peer}"), cause },
        lost: false,
        again: false,
    };
    if said.contains("database space exceeded") {
        let (peer, tried) = (format!("etcd {peer}"), tried.to_owned());
        return Judged { fault: StoreError::NoSpace { tried, peer }, lost: false, again: false };
    }
    if said.contains("permission denied") {
        return refused(format!("{tried}: {} may not do that under {}", who(options), options.prefix));
    }
    if said.contains("user name is empty") {
        return refused("it wants a user, and store.etcd names none: set user and passwordFile".into());
    }
    if said.contains("request is too large") {
        return refused(format!("{tried}: the record is larger than its --max-request-bytes"));
    }
    if said.contains("invalid auth token") || said.contains("invalid auth revision") || said.contains("old revision") {
        let fault = away(peer, tried, format!("{} must sign in again", who(options)), false);
        return Judged { fault, lost: true, again: true };
    }
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented | Code::PermissionDenied => {
            refused(format!("{tried}: {said}"))
        }
        _ => {
            // A leader that is not there did nothing; one that was lost may have done it.
            let done = writes && !said.contains("no leader");
            Judged { fault: away(peer, tried, sentence(options, peer, status), done), lost: true, again: false }
        }
    }
}

/// Judges the first question on a connection. Behind TLS 1.3 a server that refuses a client's certificate may just close.
pub(super) fn at_first(options: &EtcdOptions, peer: &str, tried: &str, status: &Status) -> StoreError {
    let fault = judge(options, peer, tried, false, status).fault;
    let StoreError::Away { tried, cause, maybe_applied } = fault else { return fault };
    let closed = ["closed", "canceled", "reset", "broken pipe"].iter().any(|word| cause.contains(word));
    let cause = match &options.tls.cert {
        _ if !closed => cause,
        _ if !peer.starts_with("https://") => {
            format!("it closed the connection: perhaps it wants TLS: https:// ({cause})")
        }
        Some(ours) => {
            let ours = ours.display();
            format!("it closed the connection: perhaps it does not accept this node's certificate {ours} (tls.cert)")
        }
        None => "it closed the connection: perhaps it wants a client certificate: set tls.cert and tls.key".into(),
    };
    StoreError::Away { tried, cause, maybe_applied }
}

/// Judges a connection that did not come about, or that ended at the first word.
pub(super) fn unreachable(options: &EtcdOptions, peer: &str, cause: &(dyn Error + 'static)) -> StoreError {
    away(peer, "reach it", explain(options, peer, &chain(cause)), false)
}

pub(super) fn away(peer: &str, tried: &str, cause: String, maybe_applied: bool) -> StoreError {
    StoreError::Away { tried: format!("etcd {peer}: {tried}"), cause, maybe_applied }
}

fn who(options: &EtcdOptions) -> String {
    options.user.as_ref().map_or("a client without a user".to_owned(), |user| format!("user {:?}", user.name))
}

/// A status as a sentence: etcd's own words, or what the transport says.
fn sentence(options: &EtcdOptions, peer: &str, status: &Status) -> String {
    match (status.message().strip_prefix("etcdserver: "), status.source()) {
        (Some(said), _) => said.to_owned(),
        (None, Some(source)) => explain(options, peer, &chain(source)),
        (None, None) if status.message().is_empty() => format!("it answered {:?}", status.code()),
        (None, None) => explain(options, peer, status.message()),
    }
}

/// What lies behind an error, each cause once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) && text != "transport error" {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// Says what a fault of the transport means, where that is known.
fn explain(options: &EtcdOptions, peer: &str, cause: &str) -> String {
    let tls = &options.tls;
    let file = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let ours = file(&tls.cert);
    let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if has(&["UnknownIssuer", "BadSignature"]) {
        let ca = file(&tls.ca).unwrap_or_else(|| "any authority known here".into());
        return format!("its certificate is not signed by {ca} (tls.ca): {cause}");
    }
    if has(&["NotValidForName", "not valid for name"]) {
        let name = tls.server_name.clone().unwrap_or_else(|| host_of(peer).to_owned());
        return format!("its certificate is not for {name}: correct the endpoint or tls.serverName: {cause}");
    }
    if has(&["Expired", "certificate expired"]) && !cause.contains("alert") {
        return format!("its certificate has expired: {cause}");
    }
    let refused = [
        "alert: CertificateRequired",
        "alert: BadCertificate",
        "alert: UnknownCA",
        "alert: DecryptError",
        "alert: CertificateUnknown",
        "alert: CertificateExpired",
        "alert: UnsupportedCertificate",
    ];
    if has(&refused) {
        return match ours {
            Some(ours) => format!("it does not accept this node's certificate {ours} (tls.cert): {cause}"),
            None => format!("it wants a client certificate: set tls.cert and tls.key: {cause}"),
        };
    }
    if has(&["InvalidContentType", "InvalidMessage", "tls handshake eof"]) && peer.starts_with("https://") {
        return format!("it does not speak TLS: write http:// or correct the port: {cause}");
    }
    if peer.starts_with("https://") && has(&["Connection reset by peer"]) {
        return format!(
            "it broke off, perhaps because it does not speak TLS: write http:// or correct the port: {cause}"
        );
    }
    if peer.starts_with("http://") && has(&["frame with invalid size", "http2 error", "h2 protocol error"]) {
        return format!("it does not speak HTTP/2 without TLS: write https:// or correct the port: {cause}");
    }
    if has(&["Connection refused"]) {
        return "connection refused: is etcd running there?".into();
    }
    cause.to_owned()
}

fn host_of(endpoint: &str) -> &str {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}
