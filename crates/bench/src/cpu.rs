//! What programs use: CPU time from the scheduler's nanosecond counters, memory from /proc.
//!
//! CPU time is counted per process, so that whatever else runs on the machine is not charged to what is measured. Packets
//! that the kernel handles in a soft interrupt are charged to the thread it interrupts, or to `ksoftirqd` of that CPU,
//! which is counted too where packets are measured.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// CPU time of a living process and its threads so far, also of threads that have ended.
pub fn of_process(pid: u32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    let pid_t = libc::pid_t::try_from(pid)?;
    // SAFETY: the pointer is to a variable of the type that clock_getcpuclockid(3) fills.
    let code = unsafe { libc::clock_getcpuclockid(pid_t, &raw mut clock) };
    if code != 0 {
        bail!("process {pid}: {}", io::Error::from_raw_os_error(code));
    }
    read_clock(clock).with_context(|| format!("CPU time of process {pid}"))
}

/// CPU time of this process so far.
pub fn own() -> Result<Duration> {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read_clock(clock: libc::clockid_t) -> Result<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a timespec, which clock_gettime(2) fills if it returns 0.
    let time = unsafe {
        if libc::clock_gettime(clock, time.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error()).context("clock_gettime");
        }
        time.assume_init()
    };
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

/// Waits for a child that nobody else waits for; its exit code, and the CPU time of it and of what it waited for.
pub fn wait(pid: u32) -> Result<(Option<i32>, Duration)> {
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers are to variables of the types that wait4(2) fills; a rusage of zeros is valid.
    let usage = unsafe {
        while libc::wait4(libc::pid_t::try_from(pid)?, &raw mut status, 0, usage.as_mut_ptr()) < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error).context("wait4");
            }
        }
        usage.assume_init()
    };
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    Ok((code, time(usage.ru_utime)? + time(usage.ru_stime)?))
}

fn time(value: libc::timeval) -> Result<Duration> {
    Ok(Duration::new(u64::try_from(value.tv_sec)?, u32::try_from(value.tv_usec)? * 1_000))
}

/// The share of all CPUs' time that was used meanwhile (proc_stat(5): `cpu`, the fourth and fifth are idle).
pub fn busy(time: Duration) -> Result<f64> {
    let read = || -> Result<[f64; 2]> {
        let text = fs::read_to_string("/proc/stat")?;
        let times: Vec<f64> =
            text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        Ok([times.iter().skip(3).take(2).sum(), times.iter().sum()])
    };
    let before = read()?;
    std::thread::sleep(time);
    let after = read()?;
    Ok(1.0 - (after[0] - before[0]) / (after[1] - before[1]).max(1.0))
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    pin_process(0, cpu)
}

/// Keeps the first thread of a process on one CPU, and those that it starts from now on; 0 is the calling thread.
pub fn pin_process(pid: u32, cpu: usize) -> Result<()> {
    keep_to(pid, [cpu]).with_context(|| format!("stay on CPU {cpu}"))
}

/// Keeps every thread of a process on one CPU, or lets them go where they like again.
pub fn pin_threads(pid: u32, cpu: Option<usize>) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = task?.file_name().to_str().unwrap_or_default().parse()?;
        match cpu {
            Some(cpu) => pin_process(thread, cpu)?,
            None => keep_to(thread, 0..=last()).context("use all CPUs")?,
        }
    }
    Ok(())
}

fn keep_to(thread: u32, cpus: impl IntoIterator<Item = usize>) -> Result<()> {
    let thread = libc::pid_t::try_from(thread)?;
    // SAFETY: a cpu_set_t is plain bits; CPU_SET stays inside it for the CPU numbers of a machine.
    let code = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.into_iter().for_each(|cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if code != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}

/// The number of the machine's last CPU: the first serves most interrupts.
#[must_use]
pub fn last() -> usize {
    std::thread::available_parallelism().map_or(0, |count| count.get() - 1)
}

/// The kernel thread that handles soft interrupts of a CPU when there are too many.
pub struct Ksoftirqd {
    schedstat: Option<String>,
}

impl Ksoftirqd {
    /// The thread of a CPU.
    #[must_use]
    pub fn of(cpu: usize) -> Self {
        let name = format!("ksoftirqd/{cpu}\n");
        let pids = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut found =
            pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == name));
        Self { schedstat: found.next().map(|pid| format!("/proc/{pid}/schedstat")) }
    }

    /// Its CPU time so far; nothing where the kernel does not tell.
    #[must_use]
    pub fn used(&self) -> Duration {
        let text = self.schedstat.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0))
    }
}

/// Resident memory of a process in MiB: `VmRSS` now, or `VmHWM`, the most since [`reset_peak`].
pub fn memory(pid: u32, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: f64 = line
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("/proc/{pid}/status has no {field}"))?;
    Ok(kib / 1024.0)
}

/// MiB that the kernel has for itself and will not give back on demand.
pub fn kernel_memory() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    let parts = ["SUnreclaim:", "VmallocUsed:", "Percpu:"].map(of);
    Ok(parts.into_iter().flatten().sum::<f64>() / 1024.0)
}

/// Lets `VmHWM` of a process begin anew (proc(5), `clear_refs`).
pub fn reset_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("reset the peak of process {pid}"))
}

/// Milliseconds of a duration.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_what_it_computed() {
        let start = own().unwrap();
        let mut number = 1u64;
        while own().unwrap() - start < Duration::from_millis(20) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let seen = of_process(std::process::id()).unwrap();
        assert!(seen >= Duration::from_millis(20) && seen >= start, "{seen:?}");
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "wait is what is tested")]
    fn a_childs_end_and_time_are_told() {
        let child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let (code, time) = wait(child.id()).unwrap();
        assert_eq!(code, Some(3));
        assert!(time > Duration::ZERO && time < Duration::from_secs(10));
        assert!(of_process(child.id()).is_err(), "it is gone");
    }

    #[test]
    fn memory_is_read_and_its_peak_is_not_below_it() {
        let me = std::process::id();
        let (now, peak) = (memory(me, "VmRSS").unwrap(), memory(me, "VmHWM").unwrap());
        assert!(now > 0.1 && peak >= now * 0.9, "{now} {peak}");
        assert!(memory(me, "VmNothing").is_err());
    }
}
