//! Every wiring with every backend, of the product alone, on labs of two nodes: the speeds of `docs/choosing.md`, and the
//! document itself.
//!
//! What the document says of environments and functions is written here; a number in it was measured in the run that wrote
//! it.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ripstop_lab::{Backend, Lab, Options, PodSpec, Program, Wiring, space};

use crate::adds;
use crate::cpu::{self, Ksoftirqd, ms};
use crate::load::{Clock, Course, Test};
use crate::plugin::Plugin;
use crate::report::{Section, Table};
use crate::scene::{Programs, checkpoint, wait_for};
use crate::stat::Spread;
use crate::udp;

/// The ways, in the order of the columns.
const WAYS: [(Wiring, Backend); 6] = [
    (Wiring::Routed, Backend::HostGw),
    (Wiring::Routed, Backend::Vxlan),
    (Wiring::Routed, Backend::Udp),
    (Wiring::Bridge, Backend::HostGw),
    (Wiring::Bridge, Backend::Vxlan),
    (Wiring::Bridge, Backend::Udp),
];

/// Streams at once where there are many, and how long they go.
const MANY: usize = 16;
const STREAMING: Duration = Duration::from_millis(250);
const DATAGRAM_BURSTS: u64 = 100;
/// Pods that are started one by one in a visit.
const PODS: usize = 10;

/// What is measured of each way, in the order of the rows: its words, and the digits that are shown.
const FIGURES: [(&str, usize); 7] = [
    ("one stream, Gbit/s", 1),
    ("16 streams, Gbit/s", 1),
    ("CPU of one GB, ms", 0),
    ("one byte there and back, all on one CPU, µs", 1),
    ("a new connection, all on one CPU, µs", 0),
    ("datagrams of 64 bytes a second, all on one CPU, thousands", 0),
    ("start of a pod (ADD), ms", 1),
];

/// Measures all of it; the section's one table is the speeds.
pub fn choosing(programs: &Programs, rounds: usize) -> Result<Section> {
    let cpu = cpu::last();
    let mut ways = WAYS.into_iter().map(|way| Way::build(way, programs, cpu)).collect::<Result<Vec<_>>>()?;
    let mut measured = vec![vec![Vec::new(); WAYS.len()]; FIGURES.len()];
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            checkpoint()?;
            let at = (round + turn) % WAYS.len();
            let values = ways[at].visit(cpu).with_context(|| title(WAYS[at]))?;
            for (row, value) in measured.iter_mut().zip(values) {
                row[at].push(value);
            }
        }
    }
    for way in ways {
        way.lab.down()?;
    }
    let mut table = Table::new(&head());
    for ((words, digits), row) in FIGURES.into_iter().zip(&measured) {
        let cells = row.iter().map(|values| format!("{:.*}", digits, Spread::of(values).median));
        table.row(&std::iter::once(words.to_owned()).chain(cells).collect::<Vec<_>>());
    }
    let burst = [Wiring::Routed, Wiring::Bridge].map(|wiring| adds::round(programs, wiring).map(|round| round.wall));
    let [routed, bridge] = burst;
    let (routed, bridge) = (format!("{:.1}", routed?), format!("{:.1}", bridge?));
    let cells =
        ["1,000 pods at once over ten nodes of one machine, s", &routed, &routed, &routed, &bridge, &bridge, &bridge];
    table.row(&cells.map(str::to_owned));
    Ok(Section { id: "choosing", title: "Every wiring with every backend", goals: Vec::new(), tables: vec![table] })
}

/// The document, with the speeds of a run.
pub fn document(speeds: &Table, summary: &str) -> String {
    let mut environment = Table::new(&head());
    let mut function = Table::new(&head());
    for (table, rows) in [(&mut environment, ENVIRONMENT), (&mut function, FUNCTION)] {
        for (words, cells) in rows {
            table.row(&std::iter::once(*words).chain(*cells).map(str::to_owned).collect::<Vec<_>>());
        }
    }
    format!(
        "{OPENING}\n## Environment\n\n{}\n## Function\n\n{}\n## Speed\n\n{}\n{summary}\nMedians; both nodes and their pods are \
         on one machine, so the columns compare with each other and with nothing else. The method is that of \
         [BENCHMARKS.md](../BENCHMARKS.md).\n",
        environment.text(),
        function.text(),
        speeds.text(),
    )
}

const OPENING: &str = "# Choosing a wiring and a backend

`cargo xtask bench --record` writes this file. A network has one *wiring* (how pods hang on their node: `routed` or `bridge`) and one
*backend* (how packets travel between nodes: `host-gw`, `vxlan`, `udp`, or `auto`, which is `host-gw` inside a subnet and `vxlan` across
subnets, peer by peer). A backend can be changed while the cluster runs, without a lost packet: `ripstop migrate backend B`.

In short: `routed` and `auto`, unless pods need a common layer 2 (`bridge`), or nodes can exchange nothing but UDP in user space (`udp`).
";

type Rows = &'static [(&'static str, [&'static str; 6])];

const ENVIRONMENT: Rows = &[
    ("nodes in one subnet", ["yes"; 6]),
    ("nodes behind a router", ["refused, with the reason", "yes", "yes", "refused, with the reason", "yes", "yes"]),
    ("the network drops source addresses that are no node's", ["no", "yes", "yes", "no", "yes", "yes"]),
    ("UDP between nodes is blocked", ["yes", "no", "no", "yes", "no", "no"]),
    ("the kernel has no VXLAN, or the network blocks it", ["yes", "no", "yes", "yes", "no", "yes"]),
    ("pods' MTU on a wire of 1,500, outer IPv4", ["1500", "1450", "1472", "1500", "1450", "1472"]),
    ("pods' MTU on a wire of 1,500, outer IPv6", ["1500", "1430", "1452", "1500", "1430", "1452"]),
];

const FUNCTION: Rows = &[
    ("IPv4, IPv6, both", ["yes"; 6]),
    ("a pod cannot use another's address", ["yes"; 6]),
    ("machines outside reach pods, by a route to their node", ["yes"; 6]),
    ("broadcast and multicast among pods of a node", ["no", "no", "no", "yes", "yes", "yes"]),
    ("range mode `blocks`, addresses lent between nodes", ["yes", "yes", "yes", "no", "no", "no"]),
    ("Flannel's nodes as peers, by the same backend", ["yes"; 6]),
    ("a process of its own carries packets", ["no", "no", "yes", "no", "no", "yes"]),
];

fn head() -> [&'static str; 7] {
    ["", "routed, host-gw", "routed, vxlan", "routed, udp", "bridge, host-gw", "bridge, vxlan", "bridge, udp"]
}

fn title((wiring, backend): (Wiring, Backend)) -> String {
    format!("{wiring:?}, {backend:?}")
}

/// A lab of two nodes with a pod each.
struct Way {
    lab: Lab,
    course: Course,
    clock: Clock,
    datagrams: [UdpSocket; 2],
    plugin: Plugin,
    pods: Vec<(String, PathBuf)>,
    client: PathBuf,
    server: (PathBuf, IpAddr),
}

impl Way {
    fn build((wiring, backend): (Wiring, Backend), programs: &Programs, cpu: usize) -> Result<Self> {
        let name = format!("bench-{wiring:?}-{backend:?}").to_lowercase();
        let options = Options {
            nodes: 2,
            wiring,
            backend,
            ripstop: Some(programs.ripstop.clone()),
            plugin: Some(programs.plugin.clone()),
            replace: true,
            ..Options::named(&name)
        };
        let lab = Lab::up(&options)?;
        let add = |name: &str, node| -> Result<(PathBuf, IpAddr)> {
            let pod = lab.pod_add(&PodSpec::new(name, node))?;
            let ip = pod.ips().first().copied().context("a pod without an address")?;
            Ok((lab.layout().netns_path(name), ip))
        };
        let ((client, from), server) = (add("a", 1)?, add("b", 2)?);
        let mut course = Course::open(&client, &server.0, server.1)?;
        let mut charged = Vec::new();
        for node in [1, 2].into_iter().filter(|_| backend == Backend::Udp) {
            let forwarder = lab.node(node).process(Program::Forwarder)?.context("no forwarder")?;
            charged.push(forwarder.pid.cast_unsigned());
        }
        for pid in &charged {
            course.charge(*pid);
        }
        wait_for("the way", Duration::from_secs(15), || course.reach().is_ok())?;
        let open = |netns: &Path, ip: IpAddr| -> Result<UdpSocket> {
            let socket = space::in_netns(netns, || UdpSocket::bind((ip, 7100)))??;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(socket)
        };
        let datagrams = [open(&client, from)?, open(&server.0, server.1)?];
        datagrams[0].connect(datagrams[1].local_addr()?)?;
        let plugin = Plugin::ripstop(&programs.plugin, &lab.layout().machine_dir("n1").join("run/cni.sock"));
        let pods = (0..PODS).map(|pod| {
            let name = format!("s{pod}");
            space::netns_add(&lab.layout().netns(&name))?;
            Ok((name.clone(), lab.layout().netns_path(&name)))
        });
        let pods = pods.collect::<Result<_>>()?;
        let clock = Clock { softirqd: vec![Ksoftirqd::of(cpu)], charged };
        Ok(Self { lab, course, clock, datagrams, plugin, pods, client, server })
    }

    /// One value of each of [`FIGURES`].
    fn visit(&mut self, cpu: usize) -> Result<[f64; FIGURES.len()]> {
        let (one, many) = (self.streams(1)?, self.streams(MANY)?);
        // From here on a forwarder has no CPU of its own.
        let forwarders = self.clock.charged.clone();
        forwarders.iter().try_for_each(|pid| cpu::pin_threads(*pid, Some(cpu)))?;
        let mut on_one_cpu = |test: Test| self.course.run(test, test.amount() / 8, cpu);
        let (stream, transaction, connection) =
            (on_one_cpu(Test::Stream)?, on_one_cpu(Test::Transaction)?, on_one_cpu(Test::Connection)?);
        let datagram = udp::per_datagram(&self.datagrams, &self.clock, DATAGRAM_BURSTS, cpu)?;
        forwarders.iter().try_for_each(|pid| cpu::pin_threads(*pid, None))?;
        Ok([one, many, stream, transaction, connection, 1e3 / datagram, self.pod_start()?])
    }

    /// Gbit/s of streams that go at once, by the clock, on all CPUs.
    fn streams(&self, count: usize) -> Result<f64> {
        let listener = space::in_netns(&self.server.0, || TcpListener::bind((self.server.1, 0)))??;
        let to = listener.local_addr()?;
        let begun = Instant::now();
        let received = thread::scope(|scope| -> Result<u64> {
            let senders: Vec<_> = (0..count)
                .map(|_| scope.spawn(|| space::in_netns(&self.client, || fill(to, begun + STREAMING))?))
                .collect();
            let readers = (0..count).map(|_| {
                let (stream, _) = listener.accept()?;
                Ok(scope.spawn(move || drain(stream)))
            });
            let readers = readers.collect::<Result<Vec<_>>>()?;
            let mut sum = 0;
            for reader in readers {
                sum += reader.join().map_err(|_| anyhow!("a reader died"))??;
            }
            for sender in senders {
                sender.join().map_err(|_| anyhow!("a sender died"))??;
            }
            Ok(sum)
        })?;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(received as f64 * 8e-9 / begun.elapsed().as_secs_f64())
    }

    /// Milliseconds of an ADD, the median of some.
    fn pod_start(&self) -> Result<f64> {
        let mut taken = Vec::new();
        for (name, netns) in &self.pods {
            taken.push(ms(self.plugin.call("ADD", name, Some(netns))?.wall));
        }
        for (name, netns) in &self.pods {
            self.plugin.call("DEL", name, Some(netns))?;
        }
        Ok(Spread::of(&taken).median)
    }
}

fn fill(to: SocketAddr, until: Instant) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    let block = vec![b'x'; 128 << 10];
    while Instant::now() < until {
        stream.write_all(&block)?;
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn drain(mut stream: TcpStream) -> Result<u64> {
    let mut block = vec![0; 256 << 10];
    let mut sum = 0;
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(sum),
            read => sum += read as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_row_and_the_numbers_of_the_run() {
        let mut speeds = Table::new(&head());
        speeds.row(&["one stream, Gbit/s", "9.1", "8.2", "7.3", "6.4", "5.5", "4.6"].map(str::to_owned));
        let text = document(&speeds, "a machine");
        for (words, _) in ENVIRONMENT.iter().chain(FUNCTION) {
            assert!(text.contains(words), "{words}");
        }
        assert!(text.contains("| 9.1 ") && text.contains("a machine\n"), "{text}");
    }
}
