//! Connections that are over: tracking forgets them, programs learn of it, and nobody else's are touched.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_netmodel::{Connection, Object};
use serde_json::json;

use crate::services::{CLIENT, SERVERS, Scene, service, slice};
use crate::support::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A stream and what its server has of it.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(scene: &Scene, to: &str, listener: &TcpListener) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let client = scene.pods[CLIENT].inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap());
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        Self { client, server }
    }

    fn works(&mut self) -> bool {
        let mut buffer = [0; 4];
        self.client.write_all(b"ping").is_ok()
            && self.server.read_exact(&mut buffer).is_ok()
            && self.server.write_all(b"pong").is_ok()
            && self.client.read_exact(&mut buffer).is_ok()
    }

    /// How each end learns that it is over, at once.
    fn ends(&mut self) -> [ErrorKind; 2] {
        [&mut self.client, &mut self.server].map(|stream| {
            let start = Instant::now();
            let error = stream.read(&mut [0; 4]).unwrap_err().kind();
            assert!(start.elapsed() < Duration::from_millis(500), "{error}");
            error
        })
    }
}

/// The connections to a pod, with the namespaces of pods at their ends.
fn connections(scene: &mut Scene, ip: &str) -> Vec<Connection> {
    let ip = addr(ip);
    let mut found = scene.node.observer.connections(&[ip].into(), &[ip].into()).unwrap();
    for connection in &mut found {
        let path = |end: IpAddr| {
            scene.pods.iter().find(|(own, _)| addr(own) == end).map(|(_, pod)| Arc::from(pod.path.as_str()))
        };
        connection.sender = path(connection.source.ip());
        connection.receiver = path(connection.destination.ip());
    }
    found
}

fn end(scene: &mut Scene, over: Vec<Connection>) {
    let objects: Vec<Object> = over.into_iter().map(Object::from).collect();
    scene.node.remove(&objects);
}

#[test]
fn programs_learn_that_a_connection_is_over() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        scene.change(
            service(json!({})),
            slice(&SERVERS[..1]).map(|mut only| {
                only["ports"] = json!([{"port": 8081}]);
                only
            }),
        );
        let listeners: Vec<TcpListener> = SERVERS[..2]
            .iter()
            .map(|ip| scene.pods[*ip].inside(|| TcpListener::bind((addr(ip), 8081)).unwrap()))
            .collect();
        let mut by_service = Pair::new(&scene, "10.96.0.10:80", &listeners[0]);
        let mut direct = Pair::new(&scene, &format!("{}:8081", SERVERS[0]), &listeners[0]);
        let mut other = Pair::new(&scene, &format!("{}:8081", SERVERS[1]), &listeners[1]);
        assert!([&mut by_service, &mut direct, &mut other].map(Pair::works).iter().all(|works| *works));
        let over = connections(&mut scene, SERVERS[0]);
        assert_eq!(over.iter().filter(|one| one.protocol == TCP).count(), 2, "{over:?}");
        assert!(over.iter().any(|one| one.sent_to.to_string() == "10.96.0.10:80"), "{over:?}");
        end(&mut scene, over.clone());
        for pair in [&mut by_service, &mut direct] {
            // The end whose socket is ended first tells the other one by a packet.
            let told = pair.ends();
            assert!(told.contains(&ErrorKind::ConnectionAborted), "{told:?}");
            let is_end = |error: &ErrorKind| matches!(error, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset);
            assert!(told.iter().all(is_end), "{told:?}");
        }
        assert!(other.works(), "another's connection is disturbed");
        let left = connections(&mut scene, SERVERS[0]);
        assert!(!left.iter().any(|one| over.iter().any(|over| over.id == one.id)), "{left:?}");
        // Who listens goes on, and so does who was told.
        assert!(Pair::new(&scene, &format!("{}:8081", SERVERS[0]), &listeners[0]).works());
        // What is over already is no failure.
        end(&mut scene, over);
    });
}

#[test]
fn a_socket_for_many_is_left_alone() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        let bind = |ip: &str| {
            let socket = scene.pods[ip].inside(|| UdpSocket::bind((addr(ip), 5_353)).unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        let (server, client, many) = (bind(SERVERS[0]), bind(CLIENT), bind(SERVERS[1]));
        client.connect((addr(SERVERS[0]), 5_353)).unwrap();
        let mut buffer = [0; 16];
        let mut exchange = |from: &UdpSocket| {
            from.send_to(b"a", (addr(SERVERS[0]), 5_353)).or_else(|_| from.send(b"a")).unwrap();
            let (_, by) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"b", by).unwrap();
            from.recv(&mut buffer).unwrap();
        };
        exchange(&client);
        exchange(&many);
        let over = connections(&mut scene, SERVERS[0]);
        assert_eq!(over.iter().filter(|one| one.protocol == UDP).count(), 2, "{over:?}");
        end(&mut scene, over);
        assert_eq!(connections(&mut scene, SERVERS[0]), []);
        // The connected socket is told; the others answer whoever asks.
        assert_eq!(client.recv(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        let mut exchange = |from: &UdpSocket| {
            from.send_to(b"a", (addr(SERVERS[0]), 5_353)).unwrap();
            let (_, by) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"b", by).unwrap();
            from.recv(&mut buffer).unwrap();
        };
        exchange(&many);
    });
}

/// CRC32c, as SCTP has it (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

/// The first packet of an association.
fn init(from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
    let sum = checksum(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

#[test]
fn associations_of_sctp_are_forgotten() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        let to: SocketAddr = format!("{}:0", SERVERS[0]).parse().unwrap();
        scene.pods[CLIENT].inside(|| {
            let kind = rustix::net::SocketType::RAW;
            let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(u32::from(SCTP)).unwrap());
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, kind, Some(protocol)).unwrap();
            rustix::net::sendto(&socket, &init(1_000, 2_000), rustix::net::SendFlags::empty(), &to).unwrap();
        });
        let over = connections(&mut scene, SERVERS[0]);
        let ends: Vec<_> = over.iter().map(|one| (one.protocol, one.source.port(), one.destination.port())).collect();
        assert_eq!(ends, [(SCTP, 1_000, 2_000)]);
        end(&mut scene, over);
        assert_eq!(connections(&mut scene, SERVERS[0]), []);
    });
}

/// Prints what it costs to find and to end a thousand connections of one pod among fifty thousand.
#[test]
fn figures() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        let most: u32 =
            std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap().trim().parse().unwrap();
        let all = 50_000.min(most / 2);
        scene.pods[CLIENT].inside(|| {
            let sockets: Vec<UdpSocket> = (0..10).map(|_| UdpSocket::bind((addr(CLIENT), 0)).unwrap()).collect();
            for place in 0..all {
                let server = if place < 1_000 { SERVERS[0] } else { SERVERS[1] };
                let port = 10_000 + u16::try_from(place / 10).unwrap();
                let _ = sockets[place as usize % 10].send_to(b"x", (addr(server), port));
            }
        });
        let others = connections(&mut scene, SERVERS[1]).len();
        let start = Instant::now();
        let over = connections(&mut scene, SERVERS[0]);
        let found = start.elapsed();
        let count = over.len();
        end(&mut scene, over);
        println!(
            "{count} connections among {}: found in {found:?}, ended in {:?}",
            others + count,
            start.elapsed() - found
        );
        assert!(count >= 900, "{count}");
        assert_eq!(connections(&mut scene, SERVERS[0]).len(), 0);
        assert_eq!(connections(&mut scene, SERVERS[1]).len(), others, "another's connections are gone");
    });
}
