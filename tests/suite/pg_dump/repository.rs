//! From a server through a repository into other servers, files, and the hands of the judges.

use std::path::PathBuf;
use std::sync::Arc;

use strongroom::app::backup;
use strongroom::app::restore_dump::{self, Request, Target};
use strongroom::app::select::Found;
use strongroom::error::Kind;
use strongroom::restore::database::Mode;
use strongroom::runtime::{Cancel, SecretText, SystemClock};
use strongroom::source::SourceSettings;
use strongroom::source::pg_dump::Databases;

use super::dump::{SHOP, settings};
use super::restore::fingerprint;
use crate::support::judges;
use crate::support::postgres::{Server, bin, shared};

fn to_server(server: &Server, database: &str) -> Request {
    let mut r = Request::new(Target::Server(SecretText::new(server.conninfo("postgres", database))));
    r.client_dirs = vec![bin(server.major)];
    r
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_go_into_a_repository_and_back() {
    let (from, to) = (shared(16), shared(17));
    for name in ["repo_shop", "repo_ü/b"] {
        from.create_database(name);
        to.sql("postgres", &format!("DROP DATABASE IF EXISTS \"{name}\""));
    }
    from.sql("repo_shop", SHOP);
    from.sql("repo_ü/b", "CREATE TABLE t AS SELECT 1 AS x");
    let store = tempfile::tempdir().unwrap();
    let repository = crate::backup::init(store.path()).await;
    let mut source = settings(from, "postgres", "postgres");
    source.databases = Databases::Patterns(vec!["repo_*".to_owned()]);
    let run = |source| {
        let repository = repository.clone();
        async move {
            backup::run(
                &repository,
                crate::backup::request(SourceSettings::PgDump(source)),
                Arc::new(SystemClock),
                &Cancel::new(),
            )
            .await
        }
    };
    assert!(run(source.clone()).await.unwrap().complete);
    // A day later a few rows are new: most is there already.
    from.sql("repo_shop", "UPDATE customers SET note = 'new' WHERE id = 7");
    let second = run(source.clone()).await.unwrap();
    assert!(second.bytes_added < second.bytes_total, "{second:?}");
    // One that fails leaves no snapshot.
    source.databases = Databases::Patterns(vec!["repo_missing".to_owned()]);
    assert_eq!(run(source).await.unwrap_err().kind(), Kind::NotFound);
    let snapshots = repository.load_snapshots().await.unwrap();
    assert_eq!(snapshots.len(), 2);
    let snapshot = snapshots.into_iter().find(|s| s.id == second.snapshot).unwrap();
    let found = Found { tenant: "acme".parse().unwrap(), repository: repository.clone(), snapshot, warnings: Vec::new() };
    let cancel = Cancel::new();
    let restore = |request| restore_dump::run(&found, request, &cancel);

    // All of them, each under its own name, with roles.
    let mut all = to_server(to, "");
    all.mode = Mode::Create;
    all.globals = true;
    let outcome = restore(all.clone()).await.unwrap();
    assert_eq!(outcome.databases.iter().map(|d| d.database.as_str()).collect::<Vec<_>>(), ["repo_shop", "repo_ü/b"]);
    assert_eq!(fingerprint(to, "repo_shop"), fingerprint(from, "repo_shop"));
    assert_eq!(to.sql("repo_ü/b", "SELECT x FROM t"), "1");
    assert!(
        outcome.globals.is_some()
            && outcome.bytes == all.progress.load(std::sync::atomic::Ordering::Relaxed) - globals_length(&found).await
    );

    // One of them, elsewhere.
    to.create_database("repo_other");
    let mut one = to_server(to, "repo_other");
    assert_eq!(restore(one.clone()).await.unwrap_err().kind(), Kind::Usage, "two databases into one");
    one.database = Some("repo_shop".to_owned());
    restore(one.clone()).await.unwrap();
    assert_eq!(fingerprint(to, "repo_other"), fingerprint(from, "repo_shop"));
    one.database = Some("repo_x".to_owned());
    let report = restore(one).await.unwrap_err().report();
    assert_eq!(report, "this snapshot has no dump of database repo_x\nhint: It has: repo_shop, repo_ü/b.");

    // As files, which pg_restore of the same version lists.
    let dir = tempfile::tempdir().unwrap();
    let outcome = restore(Request::new(Target::Directory(dir.path().to_owned()))).await.unwrap();
    let relative: Vec<PathBuf> = outcome.files.iter().map(|f| f.strip_prefix(dir.path()).unwrap().to_owned()).collect();
    assert_eq!(relative, ["globals.sql", "databases/repo_shop.dump", "databases/repo_ü%2Fb.dump"].map(PathBuf::from));
    let listed = std::process::Command::new(bin(16).join("pg_restore"))
        .arg("--list")
        .arg(dir.path().join("databases/repo_shop.dump"))
        .output()
        .unwrap();
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("TABLE DATA public orders"));

    let verdict = judges::judge(store.path(), crate::backup::PASSWORD);
    for restored in [verdict.restic(1), verdict.rustic(1)] {
        for file in &relative {
            assert!(
                std::fs::read(restored.join(file)).unwrap() == std::fs::read(dir.path().join(file)).unwrap(),
                "{}",
                file.display()
            );
        }
    }
}

async fn globals_length(found: &Found) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let outcome = restore_dump::run(found, Request::new(Target::Directory(dir.path().to_owned())), &Cancel::new()).await.unwrap();
    std::fs::metadata(&outcome.files[0]).unwrap().len()
}
