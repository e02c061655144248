//! JSON values as a YAML document (YAML 1.2, block style; every string that could be read as something else is quoted).

use std::fmt::Write;

use serde_json::Value;

/// The document of a value, with its last line ended.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

/// A value whose first line begins at the present place, and whose others are indented by `depth`.
fn block(text: &mut String, value: &Value, depth: usize) {
    let mut first = true;
    let mut begin = |text: &mut String| {
        if !std::mem::take(&mut first) {
            let _ = write!(text, "{:depth$}", "");
        }
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                begin(text);
                let _ = write!(text, "{}:", scalar(name));
                nested(text, value, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                begin(text);
                text.push_str("- ");
                block(text, item, depth + 2);
            }
        }
        _ => {
            text.push_str(&flow(value));
            text.push('\n');
        }
    }
}

/// The value of a field: behind it, or below it.
fn nested(text: &mut String, value: &Value, depth: usize) {
    let below = match value {
        Value::Object(fields) if !fields.is_empty() => depth + 2,
        // A list stands below its field without indentation, as kubectl writes it.
        Value::Array(items) if !items.is_empty() => depth,
        _ => {
            let _ = writeln!(text, " {}", flow(value));
            return;
        }
    };
    let _ = write!(text, "\n{:below$}", "");
    block(text, value, below);
}

/// A value without lines below it.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A string, plain where no reader can take it for anything else, or else as in JSON, which YAML includes.
fn scalar(text: &str) -> String {
    const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    if starts && text.chars().all(plain) && !WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return text.into();
    }
    let mut quoted = String::new();
    for letter in Value::from(text).to_string().chars() {
        // JSON leaves these as they are, YAML does not take them unescaped.
        if matches!(letter, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}') {
            let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
        } else {
            quoted.push(letter);
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_of_objects_with_lists() {
        let value = json!([
            {"name": "web", "ips": ["10.244.0.2"], "mtu": 1450, "mac": null, "none": [], "deep": {"a": {"b": true}}},
            "x",
            [["y"]],
        ]);
        let text = "- deep:\n    a:\n      b: true\n  ips:\n  - \"10.244.0.2\"\n  mac: null\n  mtu: 1450\n  name: web\n  \
                    none: []\n- x\n- - - \"y\"\n";
        assert_eq!(document(&value), text);
    }

    #[test]
    fn what_looks_like_something_else_is_quoted() {
        for (text, written) in [
            ("default", "default"),
            ("a-b.c/d_e", "a-b.c/d_e"),
            ("true", "\"true\""),
            ("No", "\"No\""),
            ("1e3", "\"1e3\""),
            ("10.244.0.0/24", "\"10.244.0.0/24\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("- a", "\"- a\""),
            ("a\nb\u{7f}", "\"a\\nb\\u007f\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }
}
