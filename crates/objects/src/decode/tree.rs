//! Text as a tree of values, before anything is known about its meaning. The only place that knows YAML from JSON.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value as it was written. Unlike `serde_json::Value` it keeps repeated keys, so that they can be refused. Made of one,
/// or of JSON text without escapes, it borrows its text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree<'v> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'v, str>),
    List(Vec<Tree<'v>>),
    Map(Vec<(Cow<'v, str>, Tree<'v>)>),
}

/// Longest input that is looked at; configuration is far smaller.
const MAX_INPUT: usize = 4 << 20;

/// Longest found text that a fault repeats.
const MAX_SHOWN: usize = 80;

impl<'v> Tree<'v> {
    /// The documents of a text, JSON (one or several behind each other) or YAML (separated by `---`).
    ///
    /// # Errors
    /// What was found, with the place, and what is accepted.
    pub(crate) fn parse(text: &str) -> Result<Vec<Tree<'static>>, (String, String)> {
        if text.len() > MAX_INPUT {
            return Err((format!("{} bytes", text.len()), format!("at most {MAX_INPUT}")));
        }
        if !text.trim_start().starts_with('{') {
            return yaml(text);
        }
        // A brace opens JSON, but also YAML's flow form. If neither reads it, JSON's complaint is the likelier one.
        let json: Result<Vec<Tree<'_>>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        match json {
            Ok(documents) => Ok(documents.into_iter().map(Tree::into_owned).collect()),
            Err(error) => yaml(text).map_err(|_| {
                (format!("text that is not JSON ({})", complaint(&error.to_string())), "JSON or YAML".into())
            }),
        }
    }

    /// The same, borrowing nothing.
    pub(crate) fn into_owned(self) -> Tree<'static> {
        match self {
            Self::Null => Tree::Null,
            Self::Bool(value) => Tree::Bool(value),
            Self::Int(value) => Tree::Int(value),
            Self::Float(value) => Tree::Float(value),
            Self::Text(text) => Tree::Text(text.into_owned().into()),
            Self::List(list) => Tree::List(list.into_iter().map(Tree::into_owned).collect()),
            Self::Map(entries) => Tree::Map(
                entries.into_iter().map(|(key, value)| (key.into_owned().into(), value.into_owned())).collect(),
            ),
        }
    }

    /// The value of a key; the last, if it is repeated.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The same with the key as it stands here.
    pub(crate) fn entry(&self, key: &str) -> Option<(&str, &Self)> {
        match self {
            Self::Map(entries) => entries.iter().rev().find(|(k, _)| k == key).map(|(k, v)| (&**k, v)),
            _ => None,
        }
    }

    /// The value at a path of keys as text.
    pub(crate) fn text_at(&self, path: &[&str]) -> Option<&str> {
        match path.iter().try_fold(self, |tree, key| tree.get(key))? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads YAML 1.2 documents; empty ones are passed over. Merge keys are ordinary keys and hence unknown fields.
fn yaml(text: &str) -> Result<Vec<Tree<'static>>, (String, String)> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        merge_keys: serde_saphyr::MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        // A number beyond all bounds is a fault of its field, not of the whole text.
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let documents: Result<Vec<Owned>, _> = serde_saphyr::from_multiple_with_options(text, options);
    documents
        .map(|documents| documents.into_iter().map(|Owned(tree)| tree).collect())
        .map_err(|error| (format!("text that is not YAML ({})", complaint(&error.to_string())), "YAML or JSON".into()))
}

/// A parser's complaint for a sentence. It may repeat the input; the place it names stands at its end.
fn complaint(text: &str) -> String {
    const HEAD: usize = 100;
    const TAIL: usize = 50;
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let count = line.chars().count();
    if count <= HEAD + TAIL {
        return line;
    }
    let head: String = line.chars().take(HEAD).collect();
    let tail: String = line.chars().skip(count - TAIL).collect();
    format!("{head}…{tail}")
}

/// Text of unknown origin for a sentence: bare where that is unambiguous, otherwise quoted and escaped, never long.
pub(crate) fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_SHOWN).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    let bare = !short.is_empty()
        && short.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        && !short.starts_with(' ')
        && !short.ends_with(' ');
    if bare { format!("{short}{more}") } else { format!("{short:?}{more}") }
}

impl fmt::Display for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(text) => f.write_str(&shown(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a map"),
        }
    }
}

impl<'v> From<&'v serde_json::Value> for Tree<'v> {
    fn from(value: &'v serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match number.as_i128() {
                Some(int) => Self::Int(int),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Text(text.as_str().into()),
            Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            Value::Object(map) => Self::Map(map.iter().map(|(k, v)| (k.as_str().into(), Self::from(v))).collect()),
        }
    }
}

impl<'de: 'v, 'v> Deserialize<'de> for Tree<'v> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor(PhantomData))
    }
}

/// A tree for readers that lend nothing of their text.
struct Owned(Tree<'static>);

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tree::deserialize(deserializer).map(|tree| Self(tree.into_owned()))
    }
}

struct TreeVisitor<'v>(PhantomData<&'v str>);

impl<'de: 'v, 'v> Visitor<'de> for TreeVisitor<'v> {
    type Value = Tree<'v>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree<'v>, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree<'v>, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree<'v>, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree<'v>, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree<'v>, E> {
        Ok(Tree::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree<'v>, E> {
        Ok(Tree::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree<'v>, E> {
        Ok(Tree::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Tree<'v>, E> {
        Ok(Tree::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree<'v>, E> {
        Ok(Tree::Text(text.to_owned().into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree<'v>, E> {
        Ok(Tree::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree<'v>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'v>, A::Error> {
        let mut entries = Vec::with_capacity(FIELDS);
        while let Some(Key(key)) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Tree::Map(entries))
    }
}

/// Fields of a map, as a rule.
const FIELDS: usize = 8;

/// A map's key as text, whatever YAML took it for: it will be an unknown field then.
struct Key<'v>(Cow<'v, str>);

impl<'de: 'v, 'v> Deserialize<'de> for Key<'v> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Tree::deserialize(deserializer)? {
            Tree::Text(text) => text,
            other => other.to_string().into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_tree() {
        let json = Tree::parse(r#"{"a": [1, -2, 1.5, true, null, "x"], "b": {}}"#).unwrap();
        let yaml = Tree::parse("a: [1, -2, 1.5, true, ~, x]\nb: {}\n").unwrap();
        assert_eq!(json, yaml);
        assert_eq!(json, Tree::parse("{a: [1, -2, 1.5, true, null, 'x'], b: {}}").unwrap(), "YAML's flow form");
    }

    #[test]
    fn a_tree_borrows_text_that_has_no_escapes() {
        let text = r#"{"a": "plain", "b\u0031": ["\n", 1e400, 18446744073709551616, -1]}"#;
        assert!(serde_json::from_str::<Tree<'_>>(text).is_err(), "1e400 is no number");
        let text = text.replace("1e400", "1.0");
        let tree: Tree<'_> = serde_json::from_str(&text).unwrap();
        let Tree::Map(entries) = &tree else { panic!("{tree:?}") };
        assert!(matches!(&entries[0], (Cow::Borrowed("a"), Tree::Text(Cow::Borrowed("plain")))));
        assert_eq!(entries[1].0, "b1");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(tree, Tree::from(&value), "the same as by way of a value");
        assert_eq!(tree.clone().into_owned(), tree);
    }

    #[test]
    fn words_of_old_yaml_are_text() {
        let Some(Tree::Map(entries)) = Tree::parse("a: yes\nb: off\nc: 0o17\nd: .inf\n").unwrap().pop() else {
            panic!()
        };
        assert_eq!(entries[0].1, Tree::Text("yes".into()));
        assert_eq!(entries[1].1, Tree::Text("off".into()));
        assert_eq!(entries[2].1, Tree::Int(15));
        assert_eq!(entries[3].1, Tree::Text(".inf".into()));
    }

    #[test]
    fn keys_of_any_kind_are_text() {
        let tree = Tree::parse("1: a\ntrue: b\n").unwrap();
        let expected = [("1".into(), Tree::Text("a".into())), ("true".into(), Tree::Text("b".into()))];
        assert_eq!(tree, [Tree::Map(expected.into())]);
    }

    #[test]
    fn found_text_is_short_and_on_one_line() {
        assert_eq!(shown("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown(" a"), "\" a\"");
        assert_eq!(shown("a\nb"), "\"a\\nb\"");
        assert_eq!(shown(&"x".repeat(200)).chars().count(), MAX_SHOWN + 1);
        let long = format!("bad {} at line 3", "é".repeat(500));
        assert!(complaint(&long).chars().count() <= 151 && complaint(&long).ends_with("at line 3"));
    }
}
