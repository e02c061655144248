//! What ginkgo's reports say of Kubernetes' tests of networks, and the page that says it to people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::selection::{Place, Set, place, short};

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// With what it said.
    Failed(String),
    /// By itself, for this reason.
    Skipped(String),
}

impl Verdict {
    /// As the page has it: what a failed test said is in the log.
    fn word(&self) -> String {
        match self {
            Self::Passed => "pass".into(),
            Self::Failed(_) => "fail".into(),
            Self::Skipped(why) => format!("skipped: {why}"),
        }
    }
}

impl Verdict {
    /// What the page says; none of a test that did not run.
    fn of_word(word: &str) -> Option<Self> {
        match word.split_once(": ") {
            Some(("skipped", why)) => Some(Self::Skipped(why.into())),
            _ if word == "pass" => Some(Self::Passed),
            _ if word == "fail" => Some(Self::Failed(String::new())),
            _ => None,
        }
    }
}

/// Verdicts by test.
pub type Results = BTreeMap<String, Verdict>;

/// What a report says.
#[derive(Debug, Default)]
pub struct Report {
    /// Of the tests of its set.
    pub results: Results,
    /// Tests of networks that are in no set, with the reason.
    pub excluded: BTreeMap<String, &'static str>,
}

impl Report {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no report.
    pub fn open(path: &Path, set: &Set) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::read(&text, set).with_context(|| path.display().to_string())
    }

    /// A report names all tests there are. One of the set that neither ran nor says why has failed.
    fn read(text: &str, set: &Set) -> Result<Self> {
        let suites: Value = serde_json::from_str(text).context("the report is not JSON")?;
        let mut report = Self::default();
        let suites = suites.as_array().into_iter().flatten();
        let specs = suites.filter_map(|suite| suite["SpecReports"].as_array()).flatten();
        for spec in specs.filter(|spec| spec["LeafNodeType"] == "It") {
            let parts = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().chain([&spec["LeafNodeText"]]);
            let name = parts.filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
            match place(&name) {
                Some(Place::Set(own)) if own == set => drop(report.results.insert(name, verdict(spec))),
                Some(Place::Excluded(reason)) => drop(report.excluded.insert(name, reason)),
                _ => {}
            }
        }
        Ok(report)
    }

    /// What the page says of a set with this between the pods; none where it has no such column. Its tests have their short names.
    pub fn of_page(page: &str, set: &Set, cni: &str) -> Option<Self> {
        let (_, section) = page.split_once(&format!("\n## {}\n", set.title))?;
        let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
        let mut rows = section.lines().filter(|line| line.starts_with("| ")).map(cells);
        let column = rows.next()?.iter().position(|head| head == cni)?;
        let result = |row: Vec<String>| Some((row.first()?.clone(), Verdict::of_word(row.get(column)?)?));
        let results: Results = rows.filter_map(result).collect();
        Some(Self { results, excluded: BTreeMap::new() }).filter(|report| !report.results.is_empty())
    }

    /// How many passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.results.values().filter(|verdict| **verdict == Verdict::Passed).count()
    }

    /// How many say that they cannot run here.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.results.values().filter(|verdict| matches!(verdict, Verdict::Skipped(_))).count()
    }
}

fn verdict(spec: &Value) -> Verdict {
    let said = spec["Failure"]["Message"].as_str().unwrap_or_default();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match spec["State"].as_str().unwrap_or_default() {
        "passed" => Verdict::Passed,
        "skipped" | "pending" if !said.is_empty() => Verdict::Skipped(said),
        "skipped" | "pending" => Verdict::Failed("it did not run".into()),
        state => Verdict::Failed(format!("{state}: {said}")),
    }
}

/// The reports of one set, each with what was between the pods.
pub struct Columns<'a> {
    /// The set.
    pub set: &'static Set,
    /// In the order of the columns.
    pub reports: Vec<(&'a str, Report)>,
}

/// The page.
pub fn page(introduction: &str, sets: &[Columns<'_>]) -> String {
    let mut text = introduction.to_owned();
    // Writing to a String cannot fail.
    for Columns { set, reports } in sets {
        let count = |(cni, report): &(&str, Report)| {
            let (passed, all, skipped) = (report.passed(), report.results.len(), report.skipped());
            let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
            format!("`{cni}` {passed} of {all} pass{skipped}")
        };
        let counts = reports.iter().map(count).collect::<Vec<_>>().join("; ");
        let _ = writeln!(text, "- {}: {counts}.", set.title);
    }
    let reports = || sets.iter().flat_map(|columns| &columns.reports).map(|(_, report)| report);
    let excluded: BTreeMap<&String, &str> =
        reports().flat_map(|report| &report.excluded).map(|(name, reason)| (name, *reason)).collect();
    let _ = writeln!(text, "- {} tests do not run: [which, and why](#tests-that-do-not-run).", excluded.len());
    for columns in sets {
        table(&mut text, columns);
    }
    let _ = write!(text, "\n## Tests that do not run\n\n| test | why |\n|---|---|\n");
    for (name, reason) in excluded {
        let _ = writeln!(text, "| {} | {reason} |", cell(&short(name)));
    }
    text
}

fn table(text: &mut String, Columns { set, reports }: &Columns<'_>) {
    let heads: Vec<&str> = reports.iter().map(|(cni, _)| *cni).collect();
    let _ =
        write!(text, "\n## {}\n\n| test | {} |\n|---|{}\n", set.title, heads.join(" | "), "---|".repeat(heads.len()));
    let by_short = |(_, report): &(&str, Report)| -> BTreeMap<String, String> {
        report.results.iter().map(|(name, verdict)| (short(name), verdict.word())).collect()
    };
    let words: Vec<BTreeMap<String, String>> = reports.iter().map(by_short).collect();
    for name in words.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        let verdicts = words.iter().map(|words| words.get(name).map_or("not run".into(), |word| cell(word)));
        let _ = writeln!(text, "| {} | {} |", cell(name), verdicts.collect::<Vec<_>>().join(" | "));
    }
}

/// Text in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The texts of a row.
fn cells(row: &str) -> Vec<String> {
    let bare = row.trim_matches(['|', ' ']);
    bare.split(" | ").map(|text| text.replace("\\|", "|")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::selection::SETS;
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "a [Conformance]", "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "b [Conformance]", "State": "timedout",
         "Failure": {"Message": "too\n  long"}},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "c", "State": "skipped"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network]"], "LeafNodeText": "d [Conformance]", "State": "skipped",
         "Failure": {"Message": "no zones"}},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network]"], "LeafNodeText": "e [Conformance]", "State": "skipped"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network]"], "LeafNodeText": "f [Disruptive]", "State": "skipped"}]}]"#;

    fn set(name: &str) -> &'static Set {
        SETS.iter().find(|set| set.name == name).unwrap()
    }

    fn report() -> Report {
        Report::read(REPORT, set("conformance")).unwrap()
    }

    #[test]
    fn a_report_is_read_test_by_test() {
        let expected = [
            Verdict::Passed,
            Verdict::Failed("timedout: too long".into()),
            Verdict::Skipped("no zones".into()),
            Verdict::Failed("it did not run".into()),
        ];
        assert_eq!(report().results.into_values().collect::<Vec<_>>(), expected);
        let others = Report::read(REPORT, set("network")).unwrap();
        assert_eq!(others.results.into_keys().collect::<Vec<_>>(), ["[sig-network] DNS c"]);
        assert!(Report::read("no report", set("network")).is_err());
    }

    #[test]
    fn reports_become_a_page() {
        let reports = vec![("ripstop", report()), ("reference", Report::default())];
        let page = page("# Tests\n\n", &[Columns { set: set("conformance"), reports }]);
        for line in [
            "- Tests of conformance: `ripstop` 1 of 4 pass, 1 skipped; `reference` 0 of 0 pass.\n",
            "| DNS b | fail | not run |\n",
            "| d | skipped: no zones | not run |\n",
            "| f [Disruptive] | restarts the cluster's own programs",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
        let read = Report::of_page(&page, set("conformance"), "ripstop").unwrap();
        let renewed =
            vec![("ripstop", read), ("reference", Report { excluded: report().excluded, ..Report::default() })];
        assert_eq!(super::page("# Tests\n\n", &[Columns { set: set("conformance"), reports: renewed }]), page);
        assert!(Report::of_page(&page, set("conformance"), "another").is_none());
        assert!(Report::of_page(&page, set("conformance"), "reference").is_none(), "nothing has run");
    }
}
