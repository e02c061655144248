//! The real programs in the demo's pods: nginx, curl, iperf3.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Attempt as _, LabError, Result};
use crate::lab::Lab;
use crate::target::{Running, Target};

/// Where Debian puts programs, for those who run without an administrator's PATH.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Whether everything the demo runs is there.
///
/// # Errors
/// Names what is missing and how to get it.
pub fn check() -> Result<()> {
    let missing: Vec<&str> = ["nginx", "curl", "iperf3"].into_iter().filter(|name| find(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LabError::failed(format!("the demo needs {}; `make setup` installs them", missing.join(", "))))
}

fn find(name: &str) -> Option<String> {
    PLACES.iter().map(|place| format!("{place}/{name}")).find(|path| Path::new(path).exists())
}

fn program(name: &str) -> Result<String> {
    find(name).ok_or_else(|| LabError::failed(format!("{name} is gone; `make setup` installs it")))
}

/// A web server in a pod, with the files it serves.
pub struct Server {
    _program: Running,
    dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Left-over files in the folder for temporary ones harm nobody.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Serves `body` with nginx on port 80 of a pod.
pub fn nginx(lab: &Lab, pod: &str, body: &str) -> Result<Server> {
    // A machine of a lab has a /run of its own; the folder for temporary files is everybody's.
    let dir = std::env::temp_dir().join(format!("ripstop-{}-{pod}-{}", lab.layout().lab(), std::process::id()));
    std::fs::create_dir_all(&dir).attempt(|| format!("make {}", dir.display()))?;
    let (root, place) = (dir.join("index.html"), dir.display());
    std::fs::write(&root, body).attempt(|| format!("write {}", root.display()))?;
    let config = format!(
        "user root; daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n\
         fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
         server {{ listen 80; listen [::]:80; root {place}; }} }}\n"
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).attempt(|| format!("write {}", path.display()))?;
    let log = format!("{place}/error.log");
    let mut command = Command::new(program("nginx")?);
    command.args(["-e", &log, "-c"]).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let program = lab.spawn(&Target::Pod(pod.into()), &mut command)?;
    Ok(Server { _program: program, dir })
}

/// What curl reads from an address, tried until the server is up.
pub fn curl(lab: &Lab, from: &Target, address: std::net::IpAddr) -> Result<String> {
    let url = if address.is_ipv6() { format!("http://[{address}]/") } else { format!("http://{address}/") };
    let until = Instant::now() + Duration::from_secs(5);
    let curl = program("curl")?;
    loop {
        match lab.exec(from, &[&curl, "-sS", "--max-time", "2", &url]) {
            Ok(body) => return Ok(body.trim().to_owned()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Starts an iperf3 server in a pod.
pub fn iperf_server(lab: &Lab, pod: &str) -> Result<Running> {
    let mut command = Command::new(program("iperf3")?);
    command.args(["-s"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    lab.spawn(&Target::Pod(pod.into()), &mut command)
}

/// Gbit/s of one TCP stream over two seconds, by iperf3, tried until the server is up.
pub fn iperf(lab: &Lab, from: &str, to: std::net::IpAddr) -> Result<f64> {
    let (iperf, to) = (program("iperf3")?, to.to_string());
    let until = Instant::now() + Duration::from_secs(5);
    let from = Target::Pod(from.into());
    loop {
        match lab.exec(&from, &[&iperf, "-c", &to, "-t", "2", "-J"]).and_then(|text| throughput(&text)) {
            Ok(bits) => return Ok(bits / 1e9),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Bits a second that the receiver saw. iperf3 ends well also where its answer is an error.
fn throughput(answer: &str) -> Result<f64> {
    let value: serde_json::Value = serde_json::from_str(answer).attempt(|| "read iperf3's answer".into())?;
    let bits = value["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.ok_or_else(|| {
        let why = value["error"].as_str().unwrap_or("its answer has no throughput");
        LabError::failed(format!("iperf3: {why}"))
    })
}
