//! Ports of the host that lead to pods: who reaches what, whose they are, and that they outlive agents and go with their pods.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::ns::{Ns, is_root};
use crate::support::soon;
use crate::support::world::{Families, NODE, Plan, Pod, World, at};

fn ports(mappings: Value) -> impl FnOnce(crate::support::cni::Call) -> crate::support::cni::Call {
    move |call| call.with("runtimeConfig", json!({ "portMappings": mappings }))
}

/// Says a name and who asked, to everybody who connects or sends.
fn serve(pod: &Pod, name: &'static str, port: u16) {
    let (tcp, udp) = pod.ns.inside(|| {
        let any: SocketAddr = format!("[::]:{port}").parse().unwrap();
        (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { break };
            let from = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(format!("{name} {from}").as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{name} {}", from.ip().to_canonical()).as_bytes(), from);
        }
    });
}

/// What is answered at a port; `None` where nobody does.
fn tcp(from: &Ns, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text).filter(|text| !text.is_empty())
    })
}

fn is_answered(from: &Ns, to: &str, by: &str) -> bool {
    soon(|| tcp(from, to).is_some_and(|text| text.starts_with(by)))
}

#[test]
fn a_host_port_is_reached_from_everywhere_and_keeps_the_source() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let world = World::start(Plan { wiring, families: Families::Dual, ..Plan::default() });
        let mappings = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 80, "protocol": "udp"},
        ]);
        let web = world.pod_with("web", ports(mappings));
        serve(&web, "web", 80);
        let other = world.pod("other");
        for (n, node) in NODE.into_iter().enumerate() {
            let to = at(node, 8080);
            let from = |ns: &Ns| tcp(ns, &to).unwrap_or_else(|| panic!("{wiring}: {to} is not answered"));
            assert!(is_answered(&world.router, &to, "web"), "{wiring}: {to} from outside");
            let outside = from(&world.router);
            assert!(!outside.contains(node) && !outside.contains("10.244."), "{wiring}: the source is kept: {outside}");
            assert_eq!(from(&other.ns), format!("web {}", other.ips()[n]), "{wiring}");
            assert!(from(&world.node).starts_with("web "), "{wiring}");
            // A pod that reaches itself sees another source than its own.
            let itself = from(&web.ns);
            assert!(itself.starts_with("web ") && itself != format!("web {}", web.ips()[n]), "{wiring}: {itself}");
        }
        assert!(is_answered(&world.node, "127.0.0.1:8080", "web"), "{wiring}: at loopback");
        assert_eq!(tcp(&world.router, &at(NODE[0], 80)), None, "{wiring}: no port of the host's");
        let udp = world.router.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send_to(b"hello", at(NODE[0], 5353)).unwrap();
            let mut buffer = [0; 100];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
        });
        assert!(udp.0.starts_with("web ") && udp.1 == at(NODE[0], 5353).parse().unwrap(), "{udp:?}");
        world.check(&web).done();
        // Nobody beside the node gets to what listens at its loopback addresses.
        let text = world.node.run("nft", &["list", "table", "ip", "ripstop-loopback"]);
        assert!(text.contains("127.0.0.0/8") && text.contains("drop"), "{text}");
        world.del(&web);
        assert_eq!(tcp(&world.router, &at(NODE[0], 8080)), None, "{wiring}: it went with its pod");
        let setting =
            || world.node.inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/route_localnet").unwrap());
        assert!(soon(|| setting().trim() == "0"), "what only it needed went, too");
    }
}

#[test]
fn a_host_port_is_one_pods() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let one =
        |ip: &str, protocol: &str| json!([{"hostPort": 8080, "containerPort": 80, "protocol": protocol, "hostIP": ip}]);
    let first = world.pod_with("first", ports(one("127.0.0.1", "tcp")));
    serve(&first, "first", 80);
    // Another address or protocol is another port.
    let second = world.pod_with("second", ports(one(NODE[0], "tcp")));
    serve(&second, "second", 80);
    let third = world.pod_with("third", ports(one("127.0.0.1", "udp")));
    assert!(
        is_answered(&world.node, "127.0.0.1:8080", "first") && is_answered(&world.router, &at(NODE[0], 8080), "second")
    );
    for (ip, holder) in
        [("127.0.0.1", "default/first"), (NODE[0], "default/second"), ("", "default/first"), ("0.0.0.0", "default/")]
    {
        let ns = Ns::new();
        let call = world.call("ADD", &world.fresh("c"), &ns.path);
        let (code, text) = ports(one(ip, "tcp"))(call).refused();
        assert!(code == 109 && text.contains("8080/TCP") && text.contains(holder), "{ip}: {code} {text}");
        assert!(!ns.has_link("eth0"));
    }
    // Whose pod goes gives it up.
    world.del(&second);
    let fourth = world.pod_with("fourth", ports(one(NODE[0], "tcp")));
    serve(&fourth, "fourth", 80);
    assert!(is_answered(&world.router, &at(NODE[0], 8080), "fourth"));
    drop(third);
}

#[test]
fn host_ports_stand_while_no_agent_runs_and_are_known_to_the_next() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    let mapping = || json!([{"hostPort": 8080, "containerPort": 80}]);
    let web = world.pod_with("web", ports(mapping()));
    serve(&web, "web", 80);
    let to = at(NODE[0], 8080);
    assert!(is_answered(&world.router, &to, "web"));
    world.settle();
    world.kill_agent();
    assert!(is_answered(&world.router, &to, "web"));
    world.start_agent();
    world.wait_ready();
    world.settle();
    assert!(is_answered(&world.router, &to, "web") && is_answered(&world.node, "127.0.0.1:8080", "web"));
    let (code, text) = ports(mapping())(world.call("ADD", "c9", &Ns::new().path)).refused();
    assert!(code == 109 && text.contains("default/web"), "{code} {text}");
    world.del(&web);
    assert_eq!(tcp(&world.router, &to), None);
}

/// A socket of SCTP that is used as one of TCP is; `None` where the kernel has none.
fn sctp() -> Option<OwnedFd> {
    // SAFETY: a system call that takes numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
    // SAFETY: the descriptor is new and nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Connects a socket, or binds it.
fn place(socket: &OwnedFd, connects: bool, to: SocketAddrV4) -> std::io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    let size = size_of_val(&address) as libc::socklen_t;
    let call = if connects { libc::connect } else { libc::bind };
    // SAFETY: the address is as long as it says and outlives the call.
    let done = unsafe { call(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn a_host_port_of_sctp_leads_to_its_pod() {
    if !is_root() {
        return;
    }
    if sctp().is_none() {
        println!("SKIPPED: this kernel has no sockets of SCTP (module sctp); the emulated kernel's stage has them");
        return;
    }
    let world = World::start(Plan::default());
    let mappings = json!([{"hostPort": 3868, "containerPort": 80, "protocol": "SCTP"}]);
    let web = world.pod_with("web", ports(mappings));
    let listener = web.ns.inside(|| {
        let socket = sctp().unwrap();
        place(&socket, false, "0.0.0.0:80".parse().unwrap()).unwrap();
        // SAFETY: a system call that takes numbers.
        assert_eq!(unsafe { libc::listen(socket.as_raw_fd(), 8) }, 0);
        TcpListener::from(socket)
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((mut client, _)) = listener.accept() {
            let length = client.read(&mut buffer).unwrap_or_default();
            let _ = client.write_all(&[b"web ", &buffer[..length]].concat());
        }
    });
    let other = world.pod("other");
    let asked = |from: &Ns| {
        from.inside(|| -> std::io::Result<String> {
            let socket = sctp().ok_or_else(std::io::Error::last_os_error)?;
            place(&socket, true, at(NODE[0], 3868).parse().unwrap())?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"hello")?;
            let mut buffer = [0; 32];
            let length = stream.read(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    };
    for (name, from) in [("outside", &world.router), ("a pod", &other.ns), ("the node", &world.node)] {
        assert!(soon(|| asked(from).is_ok_and(|text| text == "web hello")), "{name}: {:?}", asked(from));
    }
    world.del(&web);
    assert!(asked(&world.router).is_err(), "it went with its pod");
}

/// A client of UDP never begins anew: what it sends has to find who has the port now.
#[test]
fn clients_of_udp_find_the_pod_that_has_the_port_now() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let mapping = || json!([{"hostPort": 5353, "containerPort": 80, "protocol": "udp"}]);
    let client = world.router.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.connect(at(NODE[0], 5353)).unwrap();
        socket
    });
    let heard = || {
        let mut buffer = [0; 100];
        // A refusal is an answer, too: nobody has the port yet.
        let _ = client.send(b"hello");
        client.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    assert_eq!(heard(), None);
    let first = world.pod_with("first", ports(mapping()));
    serve(&first, "first", 80);
    assert!(
        soon(|| heard().is_some_and(|text| text.starts_with("first "))),
        "the flow from before the pod still stands"
    );
    world.del(&first);
    let second = world.pod_with("second", ports(mapping()));
    serve(&second, "second", 80);
    assert!(soon(|| heard().is_some_and(|text| text.starts_with("second "))), "the flow to the first pod still stands");
}
