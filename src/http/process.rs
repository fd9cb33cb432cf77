//! What the machine says about this process, read when it is asked for. Linux only; elsewhere these metrics are absent.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Adds `process_*` under the names that every Prometheus client uses.
pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(facts) = Facts::read() else { return Ok(()) };
        let mut gauge = |name: &str, help: &str, value: f64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge("process_resident_memory_bytes", "Memory in use.", facts.resident as f64)?;
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970.", facts.started)?;
        gauge("process_open_fds", "Open file descriptors.", facts.files as f64)?;
        gauge("process_threads", "Threads.", facts.threads as f64)?;
        let cpu = ConstCounter::new(facts.cpu);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time used, user and system.",
            None,
            cpu.metric_type(),
        )?)
    }
}

struct Facts {
    resident: u64,
    started: f64,
    cpu: f64,
    files: usize,
    threads: u64,
}

impl Facts {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold anything; what follows the last one has fixed places.
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
        let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(Self {
            cpu: (number(11)? + number(12)?) as f64 / ticks,
            threads: number(17)?,
            started: boot + number(19)? as f64 / ticks,
            resident: number(21)? * rustix::param::page_size() as u64,
            files: std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1),
        })
    }
}
