//! Faults that were planted into Debian's bridge, one a script: the named cases must fail, and pass without the fault.

use std::path::Path;
use std::time::Duration;

use ripstop_conformance::Outcome;
use serde_json::Value;

use crate::{Bench, DEBIAN, conf, one_address, possible};

/// What is wrong, the script behind its head, and the cases that must see it.
type Fault = (&'static str, &'static str, &'static [&'static str]);

const FAULTS: &[Fault] = &[
    (
        "the result has another version",
        r#"$REAL < $IN > $OUT; s=$?; sed 's/"cniVersion": *"[^"]*"/"cniVersion": "0.3.7"/' $OUT; exit $s"#,
        &["result.version-as-asked"],
    ),
    (
        "errors exit with 0",
        "$REAL < $IN; exit 0",
        &["errors.status-is-not-zero", "config.name-missing", "add.interface-exists"],
    ),
    ("junk before the result", "echo starting; exec $REAL < $IN", &["result.is-printed", "version.prints-one-object"]),
    (
        "errors go to stderr only",
        "$REAL < $IN > $OUT || { cat $OUT >&2; exit 1; }; cat $OUT",
        &["errors.object-on-stdout"],
    ),
    (
        "the code is text",
        r#"$REAL < $IN > $OUT; s=$?; sed 's/"code": *\([0-9]*\)/"code": "\1"/' $OUT; exit $s"#,
        &["errors.code-is-a-number"],
    ),
    (
        "DEL does nothing",
        r#"[ $CNI_COMMAND = DEL ] && exit 0; exec $REAL < $IN"#,
        &[
            "del.removes-the-interface",
            "del.frees-the-address",
            "leftovers.none-after-add-and-del",
            "add.again-after-del",
        ],
    ),
    (
        "a second DEL fails",
        r#"[ $CNI_COMMAND = DEL ] && { inside ip link show $CNI_IFNAME > /dev/null 2>&1 || exit 1; }; exec $REAL < $IN"#,
        &["del.twice", "del.of-what-was-never-added", "del.after-the-netns-vanished", "del.without-netns-variable"],
    ),
    (
        "DEL keeps the address",
        r#"[ $CNI_COMMAND = DEL ] && { jq -c 'del(.ipam)' $IN | $REAL; exit $?; }; exec $REAL < $IN"#,
        &["del.frees-the-address", "leftovers.addresses-do-not-run-out", "delegate.called-by-del"],
    ),
    (
        "DEL removes every interface",
        r#"$REAL < $IN; s=$?; [ $CNI_COMMAND = DEL ] && for i in net1 other0; do inside ip link del $i; done 2> /dev/null; exit $s"#,
        &["del.leaves-an-interface-of-others"],
    ),
    (
        "CHECK sees nothing",
        r#"[ $CNI_COMMAND = CHECK ] && exit 0; exec $REAL < $IN"#,
        &[
            "check.interface-missing",
            "check.address-missing",
            "check.default-route-missing",
            "delegate.called-by-check",
        ],
    ),
    ("CHECK always complains", r#"[ $CNI_COMMAND = CHECK ] && exit 1; exec $REAL < $IN"#, &["check.right-after-add"]),
    (
        "the result has another MAC",
        r#"$REAL < $IN > $OUT; s=$?; sed 's/"mac": *"[^"]*"/"mac": "02:00:00:00:00:01"/' $OUT; exit $s"#,
        &["kernel.interface-has-the-mac", "kernel.host-interfaces-have-the-mac"],
    ),
    (
        "addresses point to the bridge",
        r#"$REAL < $IN > $OUT; s=$?; sed 's/"interface": *2/"interface": 0/' $OUT; exit $s"#,
        &["result.index-points-into-the-container"],
    ),
    (
        "the interface stays down",
        r#"$REAL < $IN; s=$?; [ $CNI_COMMAND = ADD ] && inside ip link set $CNI_IFNAME down 2> /dev/null; exit $s"#,
        &["kernel.interface-is-up", "packet.echo-between-containers"],
    ),
    (
        "the address is not there",
        r#"$REAL < $IN; s=$?; [ $CNI_COMMAND = ADD ] && inside ip addr flush dev $CNI_IFNAME 2> /dev/null; exit $s"#,
        &["kernel.interface-has-the-addresses"],
    ),
    (
        "the routes are not there",
        r#"$REAL < $IN; s=$?; [ $CNI_COMMAND = ADD ] && inside ip route del default 2> /dev/null; exit $s"#,
        &["kernel.routes-are-there", "packet.container-to-outside"],
    ),
    (
        "a link is left on the host",
        r#"[ $CNI_COMMAND = ADD ] && ip link add j$$ type veth peer name k$$; exec $REAL < $IN"#,
        &["leftovers.none-after-add-and-del", "kernel.new-host-interfaces-are-listed"],
    ),
    (
        "a second ADD succeeds",
        r#"$REAL < $IN > $OUT; s=$?; [ $CNI_COMMAND = ADD ] && inside ip link show $CNI_IFNAME > /dev/null 2>&1 && { cat $OUT; exit 0; }
           cat $OUT; exit $s"#,
        &["add.interface-exists"],
    ),
    (
        "parameters are not checked",
        r#"case $CNI_CONTAINERID in */*|*' '*|*:*) CNI_CONTAINERID=x; export CNI_CONTAINERID;; esac; exec $REAL < $IN"#,
        &["environment.container-with-slash", "environment.container-with-space", "environment.container-with-colon"],
    ),
    ("it dies instead of refusing", "$REAL < $IN > $OUT || kill -9 $$; cat $OUT", &["errors.status-is-not-zero"]),
    (
        "one call at a time",
        r#"mkdir /var/lib/cni/busy 2> /dev/null || exit 1; sleep 0.05; $REAL < $IN; s=$?; rmdir /var/lib/cni/busy; exit $s"#,
        &["concurrent.adds-on-a-new-host", "concurrent.dels"],
    ),
    (
        "VERSION claims too much",
        r#"[ $CNI_COMMAND = VERSION ] && { echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0","1.1.0"]}'; exit; }; exec $REAL < $IN"#,
        &["version.claims-what-add-takes"],
    ),
    (
        "VERSION claims nothing",
        r#"[ $CNI_COMMAND = VERSION ] && { echo '{}'; exit; }; exec $REAL < $IN"#,
        &["version.has-both-keys", "version.lists-strings"],
    ),
];

/// Debian's bridge made to speak 1.1.0, with a STATUS and a GC that are as they should, or not.
const NEWER: &str = r#"
old() { jq -c '.cniVersion="1.0.0" | if .prevResult then .prevResult.cniVersion="1.0.0" else . end' $IN > $IN.o; mv $IN.o $IN; }
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}'; exit;;
STATUS) status; exit $?;;
GC) gc; exit $?;;
esac
grep -q '"cniVersion":"1.1.0"' $IN && old
$REAL < $IN > $OUT; s=$?; sed 's/"cniVersion": *"1.0.0"/"cniVersion": "1.1.0"/' $OUT; exit $s"#;

#[test]
fn planted_faults_are_found() {
    if !possible() {
        return;
    }
    let mut missed = Vec::new();
    for (what, body, cases) in FAULTS {
        let rows = Bench::script(&conf("bridge"), body).run(cases);
        let unseen = cases.iter().filter(|id| rows[**id].outcome != Outcome::Fail);
        missed.extend(unseen.map(|id| format!("{what}: {id} is {} {:?}", rows[id].outcome, rows[id].reason)));
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The control: each of those cases passes where nothing was planted.
#[test]
fn without_a_fault_the_same_cases_pass() {
    if !possible() {
        return;
    }
    let cases: Vec<&str> = FAULTS.iter().flat_map(|(_, _, cases)| cases.iter().copied()).collect();
    let rows = Bench::script(&conf("bridge"), "exec $REAL < $IN").run(&cases);
    let wrong: Vec<String> = rows
        .values()
        .filter(|row| row.outcome != Outcome::Pass)
        .map(|row| format!("{} is {}: {:?}", row.id, row.outcome, row.reason))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_address_given_twice_is_found() {
    if !possible() {
        return;
    }
    let cases = ["kernel.addresses-differ", "multi.sixteen-containers", "concurrent.adds-give-different-addresses"];
    let rows = Bench::with(&Path::new(DEBIAN).join("bridge"), &one_address()).run(&cases);
    for id in cases {
        assert_eq!(rows[id].outcome, Outcome::Fail, "{id}");
        assert!(rows[id].reason.as_ref().is_some_and(|reason| reason.contains("10.88.0.9")), "{:?}", rows[id].reason);
    }
}

#[test]
fn status_and_gc_that_do_wrong_are_found() {
    if !possible() {
        return;
    }
    let mut conf = conf("bridge");
    conf["cniVersion"] = Value::from("1.1.0");
    let with = |status: &str, gc: &str, cases: &[&str], expected: Outcome| {
        let body = format!("status() {{ {status}; }}\ngc() {{ {gc}; }}\n{NEWER}");
        let rows = Bench::script(&conf, &body).run(cases);
        for row in rows.values() {
            assert_eq!(row.outcome, expected, "{}: {:?} (status {status}, gc {gc})", row.id, row.reason);
        }
    };
    let fine =
        ["status.ready", "gc.keeps-what-is-listed", "gc.prints-nothing", "gc.before-del", "result.version-as-asked"];
    with("true", "true", &fine, Outcome::Pass);
    with("false", "true", &["status.ready"], Outcome::Fail);
    let remove = "for l in $(ls /sys/class/net); do ip link del $l 2> /dev/null; done; ip -o link | \
                  sed -n 's/^[0-9]*: \\(veth[^@]*\\)@.*/\\1/p' | while read l; do ip link del $l; done; true";
    with("true", remove, &["gc.keeps-what-is-listed"], Outcome::Fail);
    with("true", "echo done", &["gc.prints-nothing"], Outcome::Fail);
    with("true", "true", &["gc.frees-addresses", "delegate.called-by-gc", "delegate.called-by-status"], Outcome::Fail);
}

#[test]
fn a_plugin_that_hangs_is_killed_and_fails() {
    if !possible() {
        return;
    }
    let bench = Bench::script(&conf("bridge"), "[ $CNI_COMMAND = CHECK ] && sleep 4711; exec $REAL < $IN");
    let mut options = bench.options(&["check.right-after-add", "result.is-printed"]);
    options.timeout = Duration::from_millis(1_500);
    let rows = crate::rows(&options);
    assert_eq!(rows["result.is-printed"].outcome, Outcome::Pass, "{:?}", rows["result.is-printed"].reason);
    let reason = rows["check.right-after-add"].reason.clone().unwrap_or_default();
    assert!(reason.contains("did not end within 1500 ms and was killed"), "{reason}");
    let sleeps = std::process::Command::new("pgrep").args(["-fx", "sleep 4711"]).output().unwrap().stdout;
    assert!(sleeps.is_empty(), "the plugin's child outlives it");
}

#[test]
fn what_is_not_claimed_is_no_failure() {
    if !possible() {
        return;
    }
    let rows = Bench::with(&Path::new(DEBIAN).join("bridge"), &conf("bridge")).run(&["gc", "status"]);
    assert!(rows.len() > 30);
    for row in rows.values() {
        assert_eq!(row.outcome, Outcome::Unclaimed, "{}: {:?}", row.id, row.reason);
    }
}
