//! Questions for BGP: of its thread, and what people wrote with how sessions are.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Server, ending, error, json_answer};

impl Server {
    /// What is asked of BGP's thread. It may be busy with a million routes, and the loop does not wait for it.
    pub(super) async fn bgp(&self, what: &str) -> Answer {
        let (what, cell) = (what.to_owned(), self.bgp.clone());
        match tokio::task::spawn_blocking(move || cell.answer(&what)).await {
            Ok(Ok(Some(Value::Null))) => error(
                StatusCode::CONFLICT,
                "this node speaks no BGP: no network has the backend bgp, and no BgpPeer is its own",
            ),
            Ok(Ok(Some(rows))) => json_answer(&rows),
            Ok(Ok(None)) => error(
                StatusCode::NOT_FOUND,
                "known are /v1/bgp/peers, /v1/bgp/routes, /v1/bgp/received/PEER, /v1/bgp/advertised/PEER and /v1/bgp/explain/PREFIX",
            ),
            Ok(Err(invalid)) => error(StatusCode::BAD_REQUEST, &invalid),
            Err(_) => ending(),
        }
    }

    /// BgpPeers with how their sessions with this node are.
    pub(super) async fn bgp_peers(&self) -> Result<Value, Answer> {
        let rows = self.ask(|core, _| json!(core.bgp_peers())).await?;
        let sessions = self.sessions().await?;
        Ok(each(rows, |row| {
            let own = sessions.iter().filter(|one| row["here"] == true && is_of(one, row));
            summed(row, &own.collect::<Vec<_>>());
        }))
    }

    /// BgpConfigurations with how the sessions with other nodes are.
    pub(super) async fn bgp_configurations(&self) -> Result<Value, Answer> {
        let (rows, peers) = self.ask(|core, _| (json!(core.bgp_configurations()), json!(core.bgp_peers()))).await?;
        let sessions = self.sessions().await?;
        let named = |one: &Value| peers.as_array().into_iter().flatten().any(|peer| is_of(one, peer));
        let nodes: Vec<&Value> = sessions.iter().filter(|one| !named(one)).collect();
        Ok(each(rows, |row| {
            let counts = row["reason"].is_null();
            summed(row, if counts { &nodes } else { &[] });
        }))
    }

    /// One of these objects as text.
    pub(super) async fn describe_bgp(&self, kind: &str, name: &str) -> Answer {
        let rows = match kind {
            "bgppeer" => self.bgp_peers().await,
            "bgpconfiguration" => self.bgp_configurations().await,
            _ => self.ask(|core, _| json!(core.bgp_filters())).await,
        };
        let (rows, sessions) = match (rows, self.sessions().await) {
            (Ok(rows), Ok(sessions)) => (rows, sessions),
            (Err(answer), _) | (_, Err(answer)) => return answer,
        };
        match rows.as_array().into_iter().flatten().find(|row| row["name"] == name) {
            Some(row) => json_answer(&json!({"text": described(row, &sessions)})),
            None => error(StatusCode::NOT_FOUND, &format!("no {kind} {name} is known to this agent")),
        }
    }

    async fn sessions(&self) -> Result<Vec<Value>, Answer> {
        let cell = self.bgp.clone();
        let rows = tokio::task::spawn_blocking(move || cell.peers()).await.map_err(|_| ending())?;
        Ok(rows.as_array().cloned().unwrap_or_default())
    }
}

/// Whether a session is that of a BgpPeer: with its address, or from its range.
fn is_of(session: &Value, peer: &Value) -> bool {
    session["peer"] == peer["peer"] || session["range"] == peer["peer"]
}

/// A row as lines, and for a peer its sessions.
fn described(row: &Value, sessions: &[Value]) -> String {
    const TITLES: [(&str, &str); 16] = [
        ("name", "Name"),
        ("nodes", "Nodes"),
        ("peer", "Peer"),
        ("as", "AS"),
        ("mesh", "Mesh"),
        ("reflectors", "Reflectors"),
        ("port", "Port"),
        ("filters", "Filters"),
        ("import", "Import rules"),
        ("export", "Export rules"),
        ("peers", "Peers"),
        ("here", "Peer of this node"),
        ("sessions", "Sessions up"),
        ("received", "Received"),
        ("flaps", "Flaps"),
        ("reason", "Reason"),
    ];
    let shown = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(all) if all.is_empty() => Some("none".to_owned()),
        Value::Array(all) => Some(all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        other => Some(other.to_string()),
    };
    let lines = TITLES.iter().filter_map(|(field, title)| Some((format!("{title}:"), shown(&row[*field])?)));
    let mut text: String = lines.map(|(title, value)| format!("{title:<19} {value}\n")).collect();
    for one in sessions.iter().filter(|one| row["here"] == true && is_of(one, row)) {
        let of = |field: &str| shown(&one[field]).unwrap_or_else(|| "-".to_owned());
        text += &format!(
            "Session {}: {}, AS {}, router id {}, from {}, hold time {} s, BFD {}, {} received, {} flaps\n",
            of("peer"),
            of("state"),
            of("as"),
            of("routerId"),
            of("local"),
            of("hold"),
            of("bfd"),
            of("received"),
            of("flaps")
        );
    }
    text
}

fn each(mut rows: Value, change: impl Fn(&mut Value)) -> Value {
    rows.as_array_mut().into_iter().flatten().for_each(change);
    rows
}

/// Puts beside a row how many of its sessions are up, what came by them, and why one is not.
fn summed(row: &mut Value, sessions: &[&Value]) {
    let up = sessions.iter().filter(|one| one["state"] == "established").count();
    let sum = |field: &str| sessions.iter().filter_map(|one| one[field].as_u64()).sum::<u64>();
    row["sessions"] = format!("{up}/{}", sessions.len()).into();
    (row["received"], row["flaps"]) = (sum("received").into(), sum("flaps").into());
    let mut wrong = sessions.iter().filter(|one| one["state"] != "established" && !one["reason"].is_null());
    if let (true, Some(one)) = (row["reason"].is_null(), wrong.next()) {
        let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
        row["reason"] = format!("{}: {}", text("peer"), text("reason")).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_the_object_that_they_are_of() {
        let session = |peer: &str, range: Option<&str>, state: &str| json!({"peer": peer, "range": range, "state": state, "received": 3, "flaps": 1, "reason": (state != "established").then_some("refused")});
        let all = [
            session("192.0.2.1", None, "established"),
            session("198.51.100.7", Some("198.51.100.0/24"), "established"),
            session("198.51.100.8", Some("198.51.100.0/24"), "connect"),
        ];
        let row = |peer: &str| {
            let mut row = json!({"peer": peer, "reason": null});
            let own: Vec<&Value> = all.iter().filter(|one| is_of(one, &row)).collect();
            summed(&mut row, &own);
            (row["sessions"].clone(), row["received"].clone(), row["reason"].clone())
        };
        assert_eq!(row("192.0.2.1"), ("1/1".into(), 3.into(), Value::Null));
        assert_eq!(row("198.51.100.0/24"), ("1/2".into(), 6.into(), "198.51.100.8: refused".into()));
        assert_eq!(row("192.0.2.9"), ("0/0".into(), 0.into(), Value::Null));
        let range = json!({"name": "rack", "peer": "198.51.100.0/24", "here": true, "filters": [], "reason": null});
        let text = described(&range, &all);
        assert!(text.contains("Filters:            none\n") && !text.contains("Reason"), "{text}");
        assert!(text.contains("Session 198.51.100.8: connect, AS -, ") && !text.contains("192.0.2.1"), "{text}");
    }
}
