//! Values as text for people. Names in a cluster are chosen by others: nothing of them may move the cursor, change
//! colours or forge a line on the terminal of who reads them.

use std::fmt::Write;

use serde_json::Value;

/// What stands for nothing, as in kubectl.
pub const NONE: &str = "<none>";

/// A value in one line: lists are joined by `,`, nothing is [`NONE`].
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => NONE.into(),
        Value::String(text) if text.is_empty() => NONE.into(),
        Value::String(text) => escaped(text, false),
        Value::Array(items) if items.is_empty() => NONE.into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(_) => escaped(&value.to_string(), false),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A field of an object in one line.
pub fn field(object: &Value, name: &str) -> String {
    cell(object.get(name).unwrap_or(&Value::Null))
}

/// Text with its control characters written out, except, with `lines`, newline and tab.
pub fn escaped(text: &str, lines: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if (letter.is_control() && !(lines && matches!(letter, '\n' | '\t'))) || is_direction(letter) {
            let _ = write!(shown, "{}", letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// Marks that change the order in which a terminal shows letters (Unicode Standard Annex 9, section 2).
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_has_a_line() {
        let cases = [
            (json!(null), "<none>"),
            (json!([]), "<none>"),
            (json!(""), "<none>"),
            (json!(true), "true"),
            (json!(1450), "1450"),
            (json!(["10.244.0.2", "fd00::2"]), "10.244.0.2,fd00::2"),
            (json!({"a": 1}), "{\"a\":1}"),
        ];
        for (value, text) in cases {
            assert_eq!(cell(&value), text);
        }
        assert_eq!(field(&json!({"a": 1}), "b"), NONE);
    }

    #[test]
    fn a_name_cannot_draw_on_the_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\nc")), "a\\u{1b}[2Jb\\nc");
        assert_eq!(escaped("a\tb\nc\u{9b}d", true), "a\tb\nc\\u{9b}d");
        assert_eq!(escaped("a\u{202e}b", true), "a\\u{202e}b");
        assert_eq!(escaped("ä", false), "ä");
    }
}
