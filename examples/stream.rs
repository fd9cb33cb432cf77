//! Streams a server's WAL into an archive in a directory, as `wal receive` does, with any lag, and tells what it asked of the store:
//! one line of JSON for each line of standard input, until that ends. `make bench` shortens a day with it.
//!
//! Usage: `stream DIR URL SLOT LAG_MS`. `DIR` holds a repository with the password `bench`.

#![allow(clippy::expect_used, clippy::disallowed_methods, reason = "a measuring program: it reports by stopping")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use strongroom::postgres::ConnectionSettings;
use strongroom::repository::{RepoEnv, Repository};
use strongroom::runtime::{Cancel, SecretText, SystemClock};
use strongroom::store::{Counted, Counter, LocalStore, Store};
use strongroom::wal::{Archive, ReadSettings, ReceiveEvent, ReceiveOptions, Receiver, Watcher};

/// Failures go to standard error.
#[derive(Debug)]
struct Tell;

impl Watcher for Tell {
    fn event(&self, event: ReceiveEvent<'_>) {
        if !matches!(event, ReceiveEvent::Progress(_) | ReceiveEvent::Streaming { .. }) {
            eprintln!("{event:?}");
        }
    }
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().expect("usage: stream DIR URL SLOT LAG_MS");
    let (dir, url, slot) = (PathBuf::from(next()), next(), next());
    let lag = Duration::from_millis(next().parse().expect("a number"));
    let counter = Arc::new(Counter::default());
    let local = LocalStore::open(dir, Arc::new(SystemClock)).expect("a directory");
    let store: Arc<dyn Store> = Arc::new(Counted::new(local, counter.clone()));
    let env = RepoEnv { clock: Arc::new(SystemClock), cache_dir: None };
    let repo = Repository::open(store.clone(), &SecretText::new("bench".into()), &env).await.expect("a repository");
    let archive = Archive::open(store, repo.object_seal().expect("keys"), "main").expect("an archive");
    let read: Arc<ReadSettings> = Arc::new(move || ConnectionSettings::parse(&SecretText::new(url.clone())));
    let options = ReceiveOptions { max_lag: lag, ..ReceiveOptions::new(&slot) };
    let receiver = Receiver::new(archive, read, options, Arc::new(Tell));
    let cancel = Cancel::new();
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { receiver.run(&cancel).await }
    });
    let asked = tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lines() {
            line.expect("standard input");
            let c = counter.snapshot();
            println!(
                "{}",
                serde_json::json!({
                    "put": c.put, "get": c.get, "head": c.head, "list": c.list, "delete": c.delete,
                    "sent": c.bytes_out, "received": c.bytes_in,
                })
            );
        }
    });
    asked.await.expect("it is read");
    cancel.cancel();
    running.await.expect("it ends").expect("it streams");
}
