//! Load through a Service: new connections at a rate, and connections and flows that stay. Nothing of it may fail or move.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_kernel::Netns;

use super::ns::Ns;

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// New connections of each client in a second.
    pub rate: u32,
    /// Connections, and as many flows of UDP, of each client that stay.
    pub staying: usize,
    /// One that takes longer has failed.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rate: 100, staying: 4, patience: Duration::from_secs(5) }
    }
}

/// Who hears nothing from a client for so long ends with it.
const SILENCE: Duration = Duration::from_secs(60);
/// A first packet that is lost is sent again after a second: that is told, as a busy machine may be as slow.
const SLOW: Duration = Duration::from_millis(950);
/// Between two words of one that stays.
const WORD: Duration = Duration::from_millis(20);

/// Threads in namespaces that end with it.
#[derive(Default)]
struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn spawn(&mut self, ns: &Ns, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let (path, stop) = (ns.path.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || Netns::open(&path).unwrap().run(|| work(&stop)).unwrap()));
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// Says its letter to who connects by TCP and repeats what it hears; answers datagrams by its letter.
pub struct Servant(Threads);

impl Servant {
    pub fn start(ns: &Ns, tcp: u16, udp: u16, letter: u8) -> Self {
        let mut threads = Threads::default();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let at = ready.clone();
        threads.spawn(ns, move |stop| {
            let listener = TcpListener::bind(("0.0.0.0", tcp)).unwrap();
            listener.set_nonblocking(true).unwrap();
            at.send(()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => drop(std::thread::spawn(move || repeat(client, letter))),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        threads.spawn(ns, move |stop| {
            let socket = UdpSocket::bind(("0.0.0.0", udp)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&[letter], from);
                }
            }
        });
        (0..2).for_each(|_| is_ready.recv().unwrap());
        Self(threads)
    }
}

impl Drop for Servant {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn repeat(mut client: TcpStream, letter: u8) {
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let _ = client.set_nodelay(true);
    let mut word = [letter];
    let _ = client.write_all(&word);
    while client.read_exact(&mut word).is_ok() && client.write_all(&word).is_ok() {}
}

/// What clients do until it is asked how it went.
pub struct Load {
    threads: Threads,
    made: Arc<AtomicU64>,
    slow: Arc<AtomicU64>,
    said: Arc<AtomicU64>,
    faults: std::sync::mpsc::Receiver<String>,
}

impl Load {
    /// Of some clients, through a Service at these addresses.
    pub fn start(clients: &[(&str, &Ns)], tcp: SocketAddr, udp: SocketAddr) -> Self {
        Self::at(Pace::default(), clients, tcp, udp)
    }

    /// The same at another pace.
    pub fn at(pace: Pace, clients: &[(&str, &Ns)], tcp: SocketAddr, udp: SocketAddr) -> Self {
        let (fault, faults) = std::sync::mpsc::channel();
        let mut load = Self {
            threads: Threads::default(),
            made: Arc::default(),
            slow: Arc::default(),
            said: Arc::default(),
            faults,
        };
        for (name, ns) in clients {
            let (made, slow, to, who) = (load.made.clone(), load.slow.clone(), fault.clone(), (*name).to_owned());
            load.threads.spawn(ns, move |stop| {
                connect_on(stop, pace, tcp, [&made, &slow], |what| to.send(format!("{who}, new: {what}")).unwrap());
            });
            for number in 0..pace.staying {
                let (said, to, who) = (load.said.clone(), fault.clone(), format!("{name}, staying {number}"));
                load.threads.spawn(ns, move |stop| {
                    let end = stay(stop, pace.patience, tcp, &said);
                    end.unwrap_or_else(|error| to.send(format!("{who}: {error}")).unwrap());
                });
                let (said, to, who) = (load.said.clone(), fault.clone(), format!("{name}, flow {number}"));
                load.threads.spawn(ns, move |stop| {
                    let end = flow(stop, pace.patience, udp, &said);
                    end.unwrap_or_else(|error| to.send(format!("{who}: {error}")).unwrap());
                });
            }
        }
        load
    }

    /// New connections so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits until so many more were made: there was load on either side of what comes.
    #[track_caller]
    pub fn go_on(&self, more: u64) {
        let until = self.made() + more;
        assert!(super::soon(|| self.made() >= until), "no load: {:?}", self.faults.try_iter().collect::<Vec<_>>());
    }

    /// Ends; what failed.
    pub fn end(mut self) -> Vec<String> {
        self.threads.end();
        let [said, slow] = [&self.said, &self.slow].map(|count| count.load(Ordering::Relaxed));
        println!("{} connections, {slow} of them slow, {said} words of those that stayed", self.made());
        self.faults.try_iter().collect()
    }
}

fn connect_on(stop: &AtomicBool, pace: Pace, to: SocketAddr, [made, slow]: [&AtomicU64; 2], fail: impl Fn(String)) {
    let begin = Instant::now();
    for number in 0.. {
        std::thread::sleep((Duration::from_secs(1) / pace.rate * number).saturating_sub(begin.elapsed()));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (at, since) = (begin.elapsed(), Instant::now());
        let tried = TcpStream::connect_timeout(&to, pace.patience).and_then(|mut stream| {
            stream.set_read_timeout(Some(pace.patience))?;
            stream.read_exact(&mut [0])
        });
        made.fetch_add(1, Ordering::Relaxed);
        slow.fetch_add(u64::from(since.elapsed() > SLOW), Ordering::Relaxed);
        tried.unwrap_or_else(|error| {
            fail(format!("number {number} at {:.3}s for {:.1?}: {error}", at.as_secs_f64(), since.elapsed()));
        });
    }
}

fn stay(stop: &AtomicBool, patience: Duration, to: SocketAddr, said: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut word = [0];
    stream.read_exact(&mut word)?;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&word)?;
        stream.read_exact(&mut word)?;
        said.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(WORD);
    }
    Ok(())
}

/// Who answered first answers always.
fn flow(stop: &AtomicBool, patience: Duration, to: SocketAddr, said: &AtomicU64) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    let mut first = None;
    while !stop.load(Ordering::Relaxed) {
        let mut letter = [0];
        socket.send(b"?")?;
        socket.recv(&mut letter)?;
        if *first.get_or_insert(letter) != letter {
            return Err(std::io::Error::new(ErrorKind::InvalidData, "another endpoint answers"));
        }
        said.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(WORD);
    }
    Ok(())
}
