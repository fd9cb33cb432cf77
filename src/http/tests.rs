use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::error::Kind;
use crate::model::Time;
use crate::runtime::{Cancel, Clock, TestClock};

const GOOD_DRILL: DrillFigures = DrillFigures {
    started: Time { secs: 6000, nanos: 0 },
    ended: Time { secs: 6090, nanos: 0 },
    ok: true,
    rpo_seconds: Some(5.0),
    rto_seconds: Some(90.0),
};

fn full() -> Metrics {
    let metrics = Metrics::new("1.2.3");
    metrics.jobs(2);
    metrics.reloaded(Time::new(1000, 0));
    let job = metrics.job("acme", "orders");
    job.known();
    job.next_run(Some(Time::new(5000, 500_000_000)));
    job.finished(&Run {
        read_bytes: 300,
        added_bytes: 200,
        stored_bytes: 100,
        missing: 0,
        bad_pages: Some(4),
        warnings: 2,
        retries: 1,
        requests: vec![("put", 7), ("get", 3)],
        ..Run::new("backup", Time::new(2000, 0), Time::new(2012, 500_000_000), None)
    });
    job.finished(&Run::new("prune", Time::new(2013, 0), Time::new(2014, 0), Some(Kind::Failed)));
    job.retained(14, 3);
    job.retention_alarms(1);
    let drill = metrics.drill("acme", "orders");
    drill.wanted(Some(864_000.0));
    drill.drilled(&GOOD_DRILL);
    let wal = metrics.wal("acme", "orders");
    wal.listening(true);
    wal.ready(3, 1.5);
    wal.failed(Kind::Unavailable);
    wal.pushed(true, Time::new(4000, 0));
    wal.pushed(false, Time::new(4001, 0));
    wal.streaming(true);
    wal.stream(30, 20, 10, std::time::Duration::from_millis(500));
    wal.split(true);
    wal.gap();
    wal.slot_dropped();
    metrics
}

/// Every sample of the Prometheus text: name with labels, value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.rsplit_once(' ').unwrap())
        .map(|(n, v)| (n.to_owned(), v.parse().unwrap()))
        .collect()
}

#[test]
fn a_run_shows_in_every_metric_of_its_job() {
    let text = text::prometheus(&full().open_metrics());
    let samples = samples(&text);
    let get = |name: &str, labels: &str| samples.get(&format!("strongroom_{name}{{{labels}}}")).copied();
    let (job, backup) = (r#"tenant="acme",job="orders""#, r#"tenant="acme",job="orders",operation="backup""#);
    assert_eq!(get("build_info", r#"version="1.2.3""#), Some(1.0));
    assert_eq!(get("job_last_success_timestamp_seconds", backup), Some(2000.0));
    assert_eq!(get("job_last_run_timestamp_seconds", backup), Some(2012.5));
    assert_eq!(get("job_last_duration_seconds", backup), Some(12.5));
    assert_eq!(get("job_last_exit_code", backup), Some(0.0));
    assert_eq!(get("job_last_exit_code", r#"tenant="acme",job="orders",operation="prune""#), Some(1.0));
    assert_eq!(get("job_last_success_timestamp_seconds", r#"tenant="acme",job="orders",operation="prune""#), None);
    assert_eq!(get("job_runs_total", &format!(r#"{backup},result="ok""#)), Some(1.0));
    assert_eq!(get("job_runs_total", &format!(r#"{backup},result="failed""#)), Some(0.0));
    assert_eq!(get("job_retries_total", backup), Some(1.0));
    assert_eq!(get("job_last_read_bytes", job), Some(300.0));
    assert_eq!(get("job_stored_bytes_total", job), Some(100.0));
    assert_eq!(get("job_store_requests_total", &format!(r#"{job},request="put""#)), Some(7.0));
    assert_eq!(get("job_last_warnings", job), Some(2.0));
    assert_eq!(get("job_last_bad_pages", job), Some(4.0));
    assert_eq!(get("job_next_run_timestamp_seconds", job), Some(5000.5));
    assert_eq!(get("job_running", job), Some(0.0));
    assert_eq!(get("job_snapshots", job), Some(14.0));
    assert_eq!(get("job_removed_snapshots_total", job), Some(3.0));
    assert_eq!(samples.get("strongroom_jobs"), Some(&2.0));
    assert!(samples["process_resident_memory_bytes"] > 1e5 && samples["process_cpu_seconds_total"] >= 0.0);
    assert!((samples["process_start_time_seconds"] - crate::runtime::SystemClock.now().secs as f64).abs() < 3600.0);
}

#[test]
fn counters_of_a_wal_archive_begin_with_nothing() {
    let metrics = Metrics::new("1.2.3");
    metrics.wal("acme", "wal").known();
    let samples = samples(&text::prometheus(&metrics.open_metrics()));
    for name in ["pushed_files", "repeated_files", "gaps", "slot_drops"] {
        assert_eq!(samples[&format!(r#"strongroom_wal_{name}_total{{tenant="acme",job="wal"}}"#)], 0.0, "{name}");
    }
}

#[test]
fn a_wal_archive_shows_what_was_pushed_and_what_waits() {
    let samples = samples(&text::prometheus(&full().open_metrics()));
    let get = |name: &str| samples[&format!(r#"strongroom_{name}{{tenant="acme",job="orders"}}"#)];
    assert_eq!((get("wal_pushed_files_total"), get("wal_repeated_files_total")), (1.0, 1.0));
    assert_eq!((get("wal_last_pushed_timestamp_seconds"), get("wal_push_failing"), get("wal_socket_up")), (4001.0, 0.0, 1.0));
    assert_eq!((get("wal_ready_files"), get("wal_ready_age_seconds")), (3.0, 1.5));
    assert_eq!((get("wal_streaming"), get("wal_received_bytes"), get("wal_confirmed_bytes")), (1.0, 30.0, 20.0));
    assert_eq!((get("wal_slot_kept_bytes"), get("wal_unstored_age_seconds")), (10.0, 0.5));
    assert_eq!(get("wal_split"), 1.0);
    assert_eq!((get("wal_gaps_total"), get("wal_slot_drops_total")), (1.0, 1.0));
    assert_eq!(samples[r#"strongroom_wal_push_failures_total{tenant="acme",job="orders",kind="unavailable"}"#], 1.0);
}

#[test]
fn a_failed_drill_keeps_what_the_last_good_one_proved() {
    let metrics = full();
    metrics.drill("acme", "orders").failed(Time::new(7000, 0));
    let samples = samples(&text::prometheus(&metrics.open_metrics()));
    let get = |name: &str| samples[&format!(r#"strongroom_drill_{name}{{tenant="acme",job="orders"}}"#)];
    assert_eq!((get("passed"), get("last_success_timestamp_seconds"), get("last_run_timestamp_seconds")), (0.0, 6000.0, 7000.0));
    assert_eq!((get("rpo_seconds"), get("rto_seconds"), get("max_age_seconds")), (5.0, 90.0, 864_000.0));
    for result in ["ok", "failed"] {
        assert_eq!(samples[&format!(r#"strongroom_drill_runs_total{{tenant="acme",job="orders",result="{result}"}}"#)], 1.0);
    }
}

#[test]
fn a_failed_run_keeps_the_figures_and_the_age_of_the_last_good_one() {
    let metrics = full();
    metrics.job("acme", "orders").finished(&Run::new("backup", Time::new(3000, 0), Time::new(3001, 0), Some(Kind::Unavailable)));
    let samples = samples(&text::prometheus(&metrics.open_metrics()));
    let backup = r#"tenant="acme",job="orders",operation="backup""#;
    assert_eq!(samples[&format!("strongroom_job_last_success_timestamp_seconds{{{backup}}}")], 2000.0);
    assert_eq!(samples[&format!("strongroom_job_last_exit_code{{{backup}}}")], 1.0);
    assert_eq!(samples[r#"strongroom_job_last_read_bytes{tenant="acme",job="orders"}"#], 300.0);
    assert_eq!(samples[&format!(r#"strongroom_job_runs_total{{{backup},result="unavailable"}}"#)], 1.0);
}

#[test]
fn a_job_that_is_gone_leaves_nothing() {
    let metrics = full();
    assert!(metrics.open_metrics().contains("acme"));
    metrics.job("acme", "orders").forget();
    metrics.wal("acme", "orders").forget();
    metrics.drill("acme", "orders").forget();
    assert!(!metrics.open_metrics().contains("acme"), "{}", metrics.open_metrics());
}

/// What `promtool check metrics` asks for, by hand: help and type for all, once each, before the samples; counters end in
/// `_total` and nothing else does; base units.
#[test]
fn the_prometheus_text_is_clean_and_documented() {
    let text = text::prometheus(&full().open_metrics());
    let (mut helped, mut typed) = (BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 5 && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(matches!(kind, "gauge" | "counter") && helped.contains(name), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            typed.insert(name.to_owned(), kind.to_owned());
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(typed.contains_key(name), "{line} has no type");
        }
    }
    assert!(text.ends_with('\n') && !text.contains("# EOF"));
    let docs = include_str!("../../docs/metrics.md");
    for name in typed.keys() {
        assert!(docs.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
    for word in docs.split('`').filter(|w| w.starts_with("strongroom_") && !w.contains(['{', ' ', '*'])) {
        assert!(typed.contains_key(word), "docs/metrics.md names {word}, which does not exist");
    }
}

async fn get(address: std::net::SocketAddr, path: &str, accept: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[tokio::test]
async fn probes_and_metrics_are_served() {
    let clock = TestClock::new(Time::new(10_000, 0));
    let health = Health::new(Arc::new(clock.clone()));
    let listener = bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Cancel::new();
    let server = tokio::spawn(serve(listener, full(), health.clone(), stop.clone()));

    assert_eq!(get(address, "/healthz", "*/*").await.0, 200);
    assert_eq!(get(address, "/readyz", "*/*").await.0, 503);
    health.ready();
    assert_eq!(get(address, "/readyz", "*/*").await.0, 200);
    clock.set(Time::new(10_000 + Health::STALL_SECS + 1, 0));
    let (status, body) = get(address, "/healthz", "*/*").await;
    assert!(status == 503 && body.contains("has not turned for 121 s"), "{body}");
    health.beat();
    assert_eq!(get(address, "/healthz", "*/*").await.0, 200);

    let (status, body) = get(address, "/metrics", "*/*").await;
    assert!(status == 200 && body.contains("text/plain; version=0.0.4") && body.contains("strongroom_job_runs_total{"), "{body}");
    let (_, body) = get(address, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert!(
        body.contains("application/openmetrics-text; version=1.0.0")
            && body.contains("# TYPE strongroom_job_runs counter\n")
            && body.contains("# EOF"),
        "{body}"
    );
    assert_eq!(get(address, "/", "*/*").await.0, 404);

    health.draining();
    assert_eq!(get(address, "/readyz", "*/*").await.0, 503);
    clock.set(Time::new(99_000, 0));
    assert_eq!(get(address, "/healthz", "*/*").await.0, 200);
    let error = bind(&address.to_string()).await.unwrap_err();
    assert!(error.report().contains(&address.to_string()) && error.hint_text().is_some(), "{error:?}");
    stop.cancel();
    server.await.unwrap().unwrap();
    assert_eq!(bind("nonsense").await.unwrap_err().kind(), Kind::Config);
}
