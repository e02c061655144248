//! A list as the agent gave it: each row as its own text, so that JSON is handed on field by field as it came, and as a
//! value to select and to show.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::kinds::Kind;
use crate::print::ListFormat;
use crate::print::table::Table;
use crate::print::text::{cell, escaped};
use crate::print::yaml;

/// One row of a list.
#[derive(Debug, Clone)]
pub struct Row {
    raw: Box<RawValue>,
    /// The row as a value.
    pub value: Value,
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let value: Value = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        if value.is_object() {
            Ok(Self { raw, value })
        } else {
            Err(serde::de::Error::custom("a row is not an object"))
        }
    }
}

impl Row {
    /// The row's name within its kind.
    pub fn name(&self, kind: Kind) -> String {
        kind.identity().iter().map(|field| self.plain(field)).collect::<Vec<_>>().join("/")
    }

    /// Whether the row is what `name` asks for.
    pub fn answers_to(&self, kind: Kind, name: &str) -> bool {
        self.name(kind) == name || self.plain(kind.short_identity()) == name
    }

    /// The row in one line of JSON, as it came.
    pub fn json(&self) -> &str {
        self.raw.get()
    }

    fn plain(&self, field: &str) -> String {
        match self.value.get(field) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => cell(other),
        }
    }
}

/// JSON of rows: an array with a row a line.
pub fn json(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "[]\n".into();
    }
    let lines: Vec<String> = rows.iter().map(|row| format!("  {}", row.json())).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// The fields that a table of this kind shows; a wide one also shows what this version does not know.
pub fn fields(kind: Kind, wide: bool, rows: &[Row]) -> Vec<String> {
    let known = kind.columns();
    let mut fields: Vec<String> =
        known.iter().filter(|column| wide || !column.wide).map(|column| column.field.into()).collect();
    if wide {
        let more: std::collections::BTreeSet<&String> =
            rows.iter().filter_map(|row| row.value.as_object()).flat_map(serde_json::Map::keys).collect();
        fields.extend(more.into_iter().filter(|name| known.iter().all(|column| column.field != *name)).cloned());
    }
    fields
}

/// A list of a kind in a format.
pub fn render(kind: Kind, rows: &[Row], format: ListFormat, header: bool, colour: bool) -> String {
    match format {
        ListFormat::Json => json(rows),
        ListFormat::Yaml => yaml::document(&rows.iter().map(|row| row.value.clone()).collect()),
        ListFormat::Name => {
            rows.iter().map(|row| format!("{}/{}\n", kind.singular(), escaped(&row.name(kind), false))).collect()
        }
        ListFormat::Table | ListFormat::Wide => {
            let fields = fields(kind, format == ListFormat::Wide, rows);
            let names: Vec<&str> = fields.iter().map(String::as_str).collect();
            let header = header && !rows.is_empty();
            Table::of(&names, rows.iter().map(|row| &row.value)).render(header, colour)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<Row> {
        serde_json::from_str(text).unwrap()
    }

    const PODS: &str = r#"[{"namespace":"default","name":"web","zz":[1.50],"ips":[]},{"name":"b","namespace":"kube"}]"#;

    #[test]
    fn json_is_handed_on_as_it_came() {
        let text = json(&rows(PODS));
        assert_eq!(
            text,
            "[\n  {\"namespace\":\"default\",\"name\":\"web\",\"zz\":[1.50],\"ips\":[]},\n  \
             {\"name\":\"b\",\"namespace\":\"kube\"}\n]\n"
        );
        assert_eq!(json(&[]), "[]\n");
    }

    #[test]
    fn a_row_answers_to_its_short_and_its_whole_name() {
        let rows = rows(PODS);
        assert!(rows[0].answers_to(Kind::Pods, "web") && rows[0].answers_to(Kind::Pods, "default/web"));
        assert!(!rows[0].answers_to(Kind::Pods, "kube/web") && !rows[0].answers_to(Kind::Pods, "default"));
        let path: Row = serde_json::from_str(r#"{"peer":"n2","family":"4"}"#).unwrap();
        assert!(path.answers_to(Kind::Paths, "n2") && path.answers_to(Kind::Paths, "n2/4"));
    }

    #[test]
    fn only_a_wide_table_shows_what_is_not_known() {
        let rows = rows(PODS);
        assert!(!fields(Kind::Pods, false, &rows).contains(&"zz".to_owned()));
        let wide = fields(Kind::Pods, true, &rows);
        assert_eq!(wide.last().map(String::as_str), Some("zz"));
        assert_eq!(wide.len(), Kind::Pods.columns().len() + 1);
    }

    #[test]
    fn names_and_empty_lists() {
        assert_eq!(render(Kind::Pods, &rows(PODS), ListFormat::Name, true, false), "pod/default/web\npod/kube/b\n");
        assert_eq!(render(Kind::Pods, &[], ListFormat::Table, true, false), "");
        assert_eq!(render(Kind::Pods, &[], ListFormat::Yaml, true, false), "[]\n");
    }

    #[test]
    fn a_row_that_is_no_object_is_refused() {
        assert!(serde_json::from_str::<Vec<Row>>("[1]").is_err());
    }
}
