//! The server and its clients: what goes wrong on a socket.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ripstop_store::suite::Mirror;
use ripstop_store::{Embedded, Event, Expect, Kind, Options, Remote, Server, Store, StoreError};
use ripstop_types::Revision;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::relay::{Passing, Relay};

/// A server, and the store behind it.
struct Serving {
    dir: tempfile::TempDir,
    store: Arc<Embedded>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Serving {
    fn start(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::in_memory_with(options).unwrap());
        let server = Server::bind(store.clone(), dir.path().join("s")).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { dir, store, stop: Some(stop), task }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    async fn client(&self) -> Remote {
        Remote::connect(self.socket()).await.unwrap()
    }

    /// A socket in front of the server's.
    fn relay(&self) -> (Relay, PathBuf) {
        let front = self.dir.path().join("front");
        (Relay::start(&front, &self.socket()), front)
    }

    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}

async fn until(mirror: &mut Mirror, watch: &mut mpsc::Receiver<Event>, done: impl Fn(&Mirror) -> bool) {
    while !done(mirror) {
        mirror.take(watch.recv().await.expect("an event")).unwrap();
    }
}

/// A client that speaks by hand.
struct Raw {
    stream: BufReader<UnixStream>,
}

impl Raw {
    async fn connect(socket: &Path) -> Self {
        Self { stream: BufReader::new(UnixStream::connect(socket).await.unwrap()) }
    }

    async fn introduced(socket: &Path) -> Self {
        let mut raw = Self::connect(socket).await;
        raw.say(br#"{"hello":{"protocol":"ripstop-store","version":1}}"#).await;
        assert!(raw.hear().await.starts_with(r#"{"hello":"#));
        raw
    }

    async fn say(&mut self, line: &[u8]) {
        // The server may have closed already.
        let _ = self.stream.get_mut().write_all(&[line, b"\n"].concat()).await;
    }

    /// A line; empty at the end.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        let _ = self.stream.read_line(&mut line).await;
        line
    }
}

#[tokio::test]
async fn a_socket_nobody_serves_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let fault = Remote::connect(&socket).await.err().unwrap();
    assert!(matches!(&fault, StoreError::Away { maybe_applied: false, .. }), "{fault:?}");
    for part in [socket.to_str().unwrap(), "No such file", "`ripstop store serve`"] {
        assert!(fault.to_string().contains(part), "{fault}");
    }
    // A socket whose server is gone.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let fault = Remote::connect(&socket).await.err().unwrap();
    assert!(fault.to_string().contains("refused"), "{fault}");
    let long = dir.path().join("x".repeat(120));
    assert!(matches!(Remote::connect(&long).await, Err(StoreError::Invalid { .. })));
}

#[tokio::test]
async fn a_client_that_came_first_finds_the_server_later() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let client = Remote::lazy(&socket).unwrap();
    let mut watch = client.watch(&[Kind::Nodes]);
    assert!(matches!(watch.recv().await, Some(Event::Away { .. })));
    let fault = client.put_if(Kind::Nodes, "n", &json!(1), Expect::Any).await.unwrap_err();
    assert!(matches!(fault, StoreError::Away { maybe_applied: false, .. }), "{fault:?}");
    let store = Arc::new(Embedded::in_memory().unwrap());
    store.put_if(Kind::Nodes, "n", &json!(2), Expect::Absent).await.unwrap();
    let server = tokio::spawn(Server::bind(store, &socket).unwrap().run(std::future::pending()));
    assert_eq!(watch.recv().await, Some(Event::Back));
    assert!(matches!(watch.recv().await, Some(Event::Put(record)) if record.value == 2));
    assert!(matches!(watch.recv().await, Some(Event::Synced { kind: Kind::Nodes, .. })));
    assert!(client.get(Kind::Nodes, "n").await.unwrap().is_some());
    server.abort();
}

#[tokio::test]
async fn a_server_takes_only_a_socket_that_nobody_serves() {
    let dir = tempfile::tempdir().unwrap();
    let store = || Arc::new(Embedded::in_memory().unwrap());
    let socket = dir.path().join("s");
    // Left behind: taken over.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let server = Server::bind(store(), &socket).unwrap();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // In use: left alone, and still in use.
    let fault = Server::bind(store(), &socket).err().unwrap();
    assert!(fault.to_string().contains("another process listens there"), "{fault}");
    let running = tokio::spawn(server.run(std::future::pending()));
    Remote::connect(&socket).await.unwrap();
    running.abort();
    // Something else: left alone.
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let fault = Server::bind(store(), &file).err().unwrap();
    assert!(fault.to_string().contains("not a socket"), "{fault}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(matches!(Server::bind(store(), dir.path().join("none/s")), Err(StoreError::Io { .. })));
    assert!(matches!(Server::bind(store(), dir.path().join("x".repeat(120))), Err(StoreError::Invalid { .. })));
}

/// Listens on a socket and says something to everyone.
fn stranger(socket: &Path, says: Vec<u8>) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let says = says.clone();
            tokio::spawn(async move {
                let _ = stream.write_all(&says).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    })
}

#[tokio::test]
async fn a_peer_that_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let hello = |protocol: &str, version: u32| {
        let hello = json!({"hello": {"protocol": protocol, "version": version, "store": "s", "epoch": 1}});
        format!("{hello}\n").into_bytes()
    };
    let http = b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n".to_vec();
    for (n, says, why) in [
        (1, http, "HTTP/1.1 400"),
        (2, hello("ripstop-store", 2), "version 2"),
        (3, hello("other", 1), "other version 1"),
        (4, b"{\"refused\":{\"cause\":\"too old\"}}\n".to_vec(), "too old"),
        (5, vec![b'x'; 3 << 20], "no store of ripstop"),
        (6, b"\xff\xfe\n".to_vec(), "no store of ripstop"),
    ] {
        let socket = dir.path().join(format!("s{n}"));
        let task = stranger(&socket, says);
        let fault = Remote::connect(&socket).await.err().unwrap();
        assert!(matches!(fault, StoreError::Refused { .. }), "{n}: {fault:?}");
        assert!(fault.to_string().contains(why), "{n}: {fault}");
        task.abort();
    }
    // One that says nothing, and one that hangs up.
    let silent = dir.path().join("silent");
    let task = stranger(&silent, Vec::new());
    let fault = Remote::connect(&silent).await.err().unwrap();
    assert!(matches!(fault, StoreError::Away { .. }) && fault.to_string().contains("no hello"), "{fault}");
    task.abort();
}

#[tokio::test]
async fn a_client_that_makes_no_sense_is_refused_and_others_go_on() {
    let serving = Serving::start(Options::default());
    let client = serving.client().await;
    for (line, why) in [
        (b"GET / HTTP/1.1".to_vec(), "a hello was expected"),
        (br#"{"hello":{"protocol":"ripstop-store","version":9}}"#.to_vec(), "version 9"),
        (br#"{"hello":{"protocol":"other","version":1}}"#.to_vec(), "other"),
        (br#"{"list":{"id":1,"kind":"nodes"}}"#.to_vec(), "a hello was expected"),
        (vec![b'['; 2 << 20], "a line of over"),
    ] {
        let mut raw = Raw::connect(&serving.socket()).await;
        raw.say(&line).await;
        let answer = raw.hear().await;
        assert!(answer.starts_with(r#"{"refused""#) && answer.contains(why), "{answer:?}");
        assert_eq!(raw.hear().await, "");
    }
    let watch_again = br#"{"watch":{"watch":1,"kinds":["nodes"],"from":"start","window":1}}"#;
    for line in
        [&br#"{"hello":{"protocol":"ripstop-store","version":1}}"#[..], br#"{"list":{"id":1,"kind":"x"}}"#, b"{}"]
    {
        let mut raw = Raw::introduced(&serving.socket()).await;
        raw.say(line).await;
        let answer = raw.hear().await;
        assert!(answer.starts_with(r#"{"refused""#), "{answer:?}");
    }
    let mut raw = Raw::introduced(&serving.socket()).await;
    raw.say(watch_again).await;
    raw.say(watch_again).await;
    while !raw.hear().await.contains("is open already") {}
    client.put_if(Kind::Nodes, "n", &json!(1), Expect::Absent).await.unwrap();
    serving.end().await;
}

/// Sends lines with bytes changed, cut and doubled. Whatever comes, the server serves the next.
#[tokio::test]
async fn no_line_brings_the_server_down() {
    let serving = Serving::start(Options::default());
    let lines: [&[u8]; 7] = [
        br#"{"hello":{"protocol":"ripstop-store","version":1}}"#,
        br#"{"put":{"id":1,"kind":"nodes","key":"n1","expect":"any","value":{"a":[1,2.5,null,"\u00fc"]}}}"#,
        br#"{"delete":{"id":2,"kind":"claims","key":"k","expect":{"revision":3}}}"#,
        br#"{"watch":{"watch":3,"kinds":["nodes","alive"],"from":{"after":{"epoch":1,"revision":2}},"window":99}}"#,
        br#"{"more":{"watch":3,"bytes":4294967295}}"#,
        br#"{"unwatch":{"watch":3}}"#,
        br#"{"list":{"id":18446744073709551615,"kind":"networks"}}"#,
    ];
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |bound: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x % bound as u64) as usize
    };
    for _ in 0..400 {
        let mut raw = Raw::introduced(&serving.socket()).await;
        for _ in 0..4 {
            let mut line = lines[draw(lines.len())].to_vec();
            for _ in 0..draw(4) {
                let at = draw(line.len());
                match draw(3) {
                    0 => line[at] = draw(256) as u8,
                    1 => line.truncate(at.max(1)),
                    _ => line.insert(at, b"{}[]\",:0-eE\\u\n"[draw(14)]),
                }
            }
            raw.say(&line).await;
        }
    }
    let client = serving.client().await;
    client.put_if(Kind::Nodes, "last", &json!(1), Expect::Any).await.unwrap();
    serving.end().await;
}

#[tokio::test]
async fn a_lost_answer_says_that_the_write_may_be_done() {
    let serving = Serving::start(Options::default());
    let (relay, front) = serving.relay();
    let client = Remote::connect(&front).await.unwrap();
    relay.pass(Passing::Questions);
    let fault = client.put_if(Kind::Nodes, "n", &json!(1), Expect::Absent).await.unwrap_err();
    assert!(fault.maybe_applied(), "{fault:?}");
    assert!(fault.to_string().contains("may have been made"), "{fault}");
    assert!(serving.store.get(Kind::Nodes, "n").await.unwrap().is_some(), "the question did go through");
    relay.pass(Passing::All);
    // A question that cannot have changed anything never says so.
    let found = loop {
        match client.get(Kind::Nodes, "n").await {
            Ok(found) => break found,
            Err(fault) => assert!(!fault.maybe_applied(), "{fault:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(found.unwrap().value, 1);
    serving.end().await;
}

#[tokio::test]
async fn a_watch_that_was_cut_gets_exactly_what_it_missed() {
    let serving = Serving::start(Options { log_changes: 600, ..Options::default() });
    let (relay, front) = serving.relay();
    let client = Remote::connect(&front).await.unwrap();
    let kinds = [Kind::Nodes, Kind::Claims];
    let mut watch = client.watch(&kinds);
    let mut mirror = Mirror::new(&kinds);
    until(&mut mirror, &mut watch, Mirror::is_synced).await;
    let store = &serving.store;
    let mut written = Vec::new();
    for round in 0..10 {
        for n in 0..30 {
            let kind = kinds[n % 2];
            let key = format!("k{}", n % 7);
            if n == 15 {
                relay.cut();
            }
            written.push(store.put_if(kind, &key, &json!([round, n]), Expect::Any).await.unwrap());
        }
        until(&mut mirror, &mut watch, |mirror| mirror.has(*written.last().unwrap())).await;
        // So many signs of life that the log forgets this round: the watch must know where it is all the same.
        for n in 0..700 {
            store.put_if(Kind::Alive, "n", &json!(n), Expect::Any).await.unwrap();
            if n % 50 == 0 {
                client.get(Kind::Alive, "n").await.unwrap();
            }
        }
    }
    assert_eq!(mirror.resets(), 0);
    assert!(mirror.absences() >= 10, "{}", mirror.absences());
    assert_eq!(mirror.changes(), written);
    serving.end().await;
}

#[tokio::test]
async fn a_watch_that_missed_too_much_begins_anew() {
    let serving = Serving::start(Options { log_changes: 20, ..Options::default() });
    let (relay, front) = serving.relay();
    let client = Remote::connect(&front).await.unwrap();
    let mut watch = client.watch(&Kind::ALL);
    let mut mirror = Mirror::new(&Kind::ALL);
    serving.store.put_if(Kind::Nodes, "gone", &json!(0), Expect::Any).await.unwrap();
    until(&mut mirror, &mut watch, |mirror| mirror.has(Revision(1))).await;
    relay.pass(Passing::None);
    until(&mut mirror, &mut watch, Mirror::is_away).await;
    serving.store.delete_if(Kind::Nodes, "gone", Expect::Any).await.unwrap();
    for n in 0..50 {
        serving.store.put_if(Kind::Nodes, &format!("k{n}"), &json!(n), Expect::Any).await.unwrap();
    }
    relay.pass(Passing::All);
    until(&mut mirror, &mut watch, |mirror| mirror.has(Revision(52))).await;
    assert_eq!(mirror.resets(), 4);
    assert_eq!(mirror.records(Kind::Nodes), serving.store.list(Kind::Nodes).await.unwrap());
    serving.end().await;
}

/// Revisions of one opening mean nothing in another, even where they seem to fit.
#[tokio::test]
async fn a_watch_takes_another_store_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let client = Remote::lazy(&socket).unwrap();
    let mut watch = client.watch(&[Kind::Nodes]);
    let mut mirror = Mirror::new(&[Kind::Nodes]);
    for round in 0..2 {
        let store = Arc::new(Embedded::in_memory().unwrap());
        for n in 0..20 {
            let key = format!("of-{round}-{n:02}");
            store.put_if(Kind::Nodes, &key, &json!(round), Expect::Absent).await.unwrap();
        }
        let last = store.put_if(Kind::Nodes, "last", &json!(round), Expect::Absent).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(Server::bind(store.clone(), &socket).unwrap().run(async {
            let _ = stopped.await;
        }));
        let other = |mirror: &Mirror| mirror.has(last) && mirror.records(Kind::Nodes).iter().any(|r| r.value == round);
        until(&mut mirror, &mut watch, other).await;
        assert_eq!(mirror.records(Kind::Nodes), store.list(Kind::Nodes).await.unwrap());
        assert_eq!(mirror.resets(), round);
        stop.send(()).unwrap();
        serving.await.unwrap();
        until(&mut mirror, &mut watch, Mirror::is_away).await;
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_nobody() {
    let serving = Serving::start(Options::default());
    let client = serving.client().await;
    let mut raw = Raw::introduced(&serving.socket()).await;
    raw.say(br#"{"watch":{"watch":1,"kinds":["nodes"],"from":"start","window":4000000000}}"#).await;
    for _ in 0..40 {
        raw.say(br#"{"list":{"id":1,"kind":"nodes"}}"#).await;
    }
    let mut watch = client.watch(&[Kind::Nodes]);
    let mut mirror = Mirror::new(&[Kind::Nodes]);
    until(&mut mirror, &mut watch, Mirror::is_synced).await;
    let pad = "x".repeat(64 << 10);
    for n in 0..100 {
        let given = client.put_if(Kind::Nodes, &format!("k{n}"), &json!(pad), Expect::Any).await.unwrap();
        until(&mut mirror, &mut watch, |mirror| mirror.has(given)).await;
    }
    assert_eq!(mirror.resets(), 0);
    // It is not left waiting when the server ends.
    serving.end().await;
    drop(raw);
}

#[tokio::test]
async fn a_watch_is_sent_no_more_than_its_window() {
    let serving = Serving::start(Options::default());
    for n in 0..100 {
        let value = json!("x".repeat(1000));
        serving.store.put_if(Kind::Nodes, &format!("k{n:03}"), &value, Expect::Any).await.unwrap();
    }
    let mut raw = Raw::introduced(&serving.socket()).await;
    raw.say(br#"{"watch":{"watch":1,"kinds":["nodes"],"from":"start","window":5000}}"#).await;
    // The answer to a question asked later comes before what the window holds back.
    raw.say(br#"{"get":{"id":7,"kind":"claims","key":"none"}}"#).await;
    let mut sent = 0;
    loop {
        let line = raw.hear().await;
        if line.contains("found") {
            break;
        }
        sent += line.len();
    }
    raw.say(br#"{"get":{"id":8,"kind":"claims","key":"none"}}"#).await;
    loop {
        let line = raw.hear().await;
        if line.contains("\"id\":8") {
            break;
        }
        sent += line.len();
    }
    assert!((5000..8000).contains(&sent), "{sent} bytes within a window of 5000");
    raw.say(br#"{"more":{"watch":1,"bytes":1000000}}"#).await;
    while !raw.hear().await.contains("synced") {}
    serving.end().await;
}

/// Threads with runtimes of their own, which really run at once.
#[tokio::test]
async fn clients_on_several_threads_claim_a_key_once() {
    let serving = Serving::start(Options::default());
    let mut threads = Vec::new();
    for thread in 0..4 {
        let socket = serving.socket();
        threads.push(tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = Remote::connect(socket).await.unwrap();
                let mut won = 0;
                for key in 0..100 {
                    let claim = json!({"node": format!("n{thread}")});
                    match client.claim(&format!("k{key}"), &claim).await {
                        Ok(record) => {
                            assert_eq!(record.value, claim);
                            won += 1;
                        }
                        Err(StoreError::Conflict { current, .. }) => assert_ne!(current.unwrap().value, claim),
                        Err(other) => panic!("{other}"),
                    }
                }
                won
            })
        }));
    }
    let mut won = 0;
    for thread in threads {
        won += thread.await.unwrap();
    }
    assert_eq!(won, 100);
    serving.end().await;
}

#[tokio::test]
async fn a_server_that_ends_leaves_nothing_behind() {
    let serving = Serving::start(Options::default());
    let (socket, client) = (serving.socket(), serving.client().await);
    let mut watch = client.watch(&Kind::ALL);
    let store = Arc::downgrade(&serving.store);
    serving.end().await;
    assert!(!socket.exists());
    assert!(store.upgrade().is_none(), "a connection still holds the store");
    while !matches!(watch.recv().await, Some(Event::Away { .. })) {}
    drop(client);
    assert_eq!(watch.recv().await, None);
}

/// A server that takes its time for a list: six seconds for each record, longer in all than any answer may take.
#[tokio::test]
async fn a_list_is_waited_for_as_long_as_records_come() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut slow = Raw { stream: BufReader::new(stream) };
        slow.hear().await;
        slow.say(br#"{"hello":{"protocol":"ripstop-store","version":1,"store":"slow","epoch":1}}"#).await;
        let asked: serde_json::Value = serde_json::from_str(&slow.hear().await).unwrap();
        let id = &asked["list"]["id"];
        for number in 1..=3 {
            tokio::time::sleep(Duration::from_secs(6)).await;
            let record = json!({ "kind": "nodes", "key": format!("n{number}"), "value": number, "revision": number });
            slow.say(json!({ "item": { "id": id, "record": record } }).to_string().as_bytes()).await;
        }
        slow.say(json!({ "done": { "id": id } }).to_string().as_bytes()).await;
        slow.hear().await;
    });
    let client = Remote::connect(&socket).await.unwrap();
    let keys: Vec<String> = client.list(Kind::Nodes).await.unwrap().into_iter().map(|record| record.key).collect();
    assert_eq!(keys, ["n1", "n2", "n3"]);
    drop(client);
    server.await.unwrap();
}
