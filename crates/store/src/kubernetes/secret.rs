//! A Secret of Kubernetes, as far as one of its values is asked for. What is in it is named in no error.

use std::collections::BTreeMap;

use base64::Engine;
use serde::Deserialize;

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// The value of a key, if there is one.
pub(super) fn value(body: &[u8], key: &str) -> Result<Option<String>, String> {
    let secret: Secret = serde_json::from_slice(body).map_err(|_| "a Secret is not as one is".to_owned())?;
    let Some(text) = secret.data.get(key) else { return Ok(None) };
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    let bytes = bytes.map_err(|_| format!("the value {key} of a Secret is not base64"))?;
    String::from_utf8(bytes).map(Some).map_err(|_| format!("the value {key} of a Secret is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_and_what_is_wrong_is_named_without_it() {
        let body = br#"{"kind": "Secret", "data": {"password": "d29yZA==", "bad": "d29yZA", "bytes": "/w=="}}"#;
        assert_eq!(value(body, "password"), Ok(Some("word".to_owned())));
        assert_eq!(value(body, "other"), Ok(None));
        assert_eq!(value(br#"{"kind": "Secret"}"#, "other"), Ok(None));
        for (body, key) in [(&body[..], "bad"), (&body[..], "bytes"), (b"word", "password")] {
            let told = value(body, key).unwrap_err();
            assert!(!told.contains("d29yZA") && !told.contains("word\""), "{told}");
        }
    }
}
