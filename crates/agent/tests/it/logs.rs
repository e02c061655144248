//! What the agent logs, as those read it who collect logs.

use serde_json::Value;

use crate::support::agent::{Agent, How};
use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::world::{Plan, World};

#[test]
fn each_line_is_an_object_where_that_is_asked_for() {
    if !is_root() {
        return;
    }
    let config = vec!["log: {format: json, level: info}".to_owned()];
    let world = World::make(Plan { config, ..Plan::default() });
    let lines_of = |name: &str, filter: &'static str, until: &str| {
        let log = world.dir.path().join(name);
        let how = How { log: Some(filter), ..How::default() };
        let mut agent = Agent::start(&world.node, &world.config(), &log, &how);
        assert!(soon(|| agent.log_text().contains(until)), "{}", agent.log_text());
        assert!(agent.stop().success());
        let text = agent.log_text();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect::<Vec<Value>>()
    };
    let levels =
        |lines: &[Value]| lines.iter().map(|line| line["level"].as_str().unwrap().to_owned()).collect::<Vec<String>>();
    let lines = lines_of("info", "info", "is up");
    for line in &lines {
        let said = line["fields"]["message"].as_str().unwrap();
        assert!(!said.is_empty() && line["timestamp"].as_str().unwrap().contains('T'), "{line}");
    }
    assert!(levels(&lines).iter().all(|level| ["INFO", "WARN", "ERROR"].contains(&level.as_str())), "{lines:?}");
    // A filter that is none is told, and what the configuration says holds.
    let lines = lines_of("wrong", "ripstop=loud", "is up");
    let told = lines.iter().find(|line| line["level"] == "WARN").unwrap();
    assert!(told["fields"]["message"].as_str().unwrap().contains("ripstop=loud"), "{told}");
    assert!(levels(&lines).contains(&"INFO".to_owned()) && !levels(&lines).contains(&"DEBUG".to_owned()), "{lines:?}");
}
