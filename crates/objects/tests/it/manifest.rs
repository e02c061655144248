//! Files of several documents.

use ripstop_objects::Manifest;

use crate::lines;

fn document(name: &str, spec: &str) -> String {
    format!("apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn documents_come_in_their_order() {
    let text = format!(
        "---\n{}---\n# nothing here\n---\n{}---\n{{\"Network\": \"10.3.0.0/16\", \"Backend\": {{\"Type\": \"host-gw\"}}}}\n",
        document("b", "{ranges: [10.1.0.0/16]}"),
        document("a", "{ranges: [10.2.0.0/16]}")
    );
    let manifest = Manifest::decode(&text).unwrap();
    let names: Vec<&str> = manifest.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "default"]);
}

#[test]
fn json_documents_stand_behind_each_other() {
    let one = |name: &str, range: &str| {
        format!(
            r#"{{"apiVersion":"ripstop.io/v1alpha1","kind":"Network","metadata":{{"name":"{name}"}},"spec":{{"ranges":["{range}"]}}}}"#
        )
    };
    let text = format!("{}\n{}", one("a", "10.1.0.0/16"), one("b", "10.2.0.0/16"));
    assert_eq!(Manifest::decode(&text).unwrap().networks.len(), 2);
}

#[test]
fn faults_of_all_documents_come_at_once() {
    let text = format!(
        "{}---\nkind: Route\n---\n{}---\n{}---\n- a list\n",
        document("a", "{ranges: [10.1.0.1/16]}"),
        document("b", "{ranges: [10.2.0.0/16], backend: wireguard}"),
        document("b", "{ranges: [10.3.0.0/16]}"),
    );
    let faults = lines(&Manifest::decode(&text).unwrap_err());
    let places: Vec<String> = faults.iter().map(|f| f.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "document 2 apiVersion",
        "document 2 kind",
        "document 2 metadata",
        "document 2 spec",
        "document 5 found a list, accepted",
        "network/a spec.ranges[0]",
        "network/b spec.backend",
    ];
    assert_eq!(places, expected, "{faults:#?}");
}

#[test]
fn documents_are_checked_against_each_other() {
    let text = format!(
        "{}---\n{}---\n{}",
        document("a", "{ranges: [10.1.0.0/16], backend: {type: vxlan, vni: 5}}"),
        document("a", "{ranges: [10.2.0.0/16]}"),
        document("b", "{ranges: [10.1.128.0/17], backend: {type: vxlan, vni: 5, port: 4789}}"),
    );
    assert_eq!(
        lines(&Manifest::decode(&text).unwrap_err()),
        [
            "network/a: metadata.name: found the name twice, accepted: each network once",
            "network/b: spec.backend.port: found 4789, but network/a has port 8472 with VNI 5, accepted: one port for each VNI",
            "network/b: spec.ranges[0]: found 10.1.128.0/17, which overlaps 10.1.0.0/16 of network/a, accepted: a range of which no other network has addresses",
        ]
    );
}

#[test]
fn an_empty_file_is_refused() {
    for text in ["", "---\n---\n", "# x\n"] {
        assert!(lines(&Manifest::decode(text).unwrap_err())[0].contains("found no document"), "{text:?}");
    }
}

#[test]
fn bombs_are_refused() {
    let deep = "[".repeat(100_000);
    assert!(Manifest::decode(&deep).is_err());
    assert!(Manifest::decode(&"{\"a\":".repeat(100_000)).is_err());
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let of = format!("*a{}", n - 1);
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", [of.as_str(); 10].join(", ")));
    }
    assert!(Manifest::decode(&laughs).is_err());
    assert!(lines(&Manifest::decode(&"#".repeat(5 << 20)).unwrap_err())[0].contains("5242880 bytes"));
}
