//! A cluster that `pg_upgrade` has carried to the next major: its archive goes on, and both halves of its life can be recovered.

use super::archive::Site;
use super::origin::rows_after_promotion;
use crate::wal_cli::{archived, until};

fn is_carried_over(from: u32, to: u32) {
    let jobs = "wal: { pg_wal: { socket: none } }, ";
    let site = Site::new(from);
    let space = site.server.folder("far");
    site.sql(&format!("CREATE TABLESPACE far LOCATION '{}'; ALTER TABLE t SET TABLESPACE far", space.display()));
    site.sql("INSERT INTO t VALUES (1)");
    let old_base = site.backup();
    site.sql("INSERT INTO t VALUES (2)");
    let two = site.moment();
    archived(&site.server);

    // From 18 on clusters have checksums unless they are told not to, and those of both must agree.
    let initdb: &[&str] = if to >= 18 { &["--no-data-checksums"] } else { &[] };
    let server = site.server.upgrade(to, initdb, &site.place.archiving());
    let Site { place, server: old } = site;
    let old_wal = place.objects(&format!("/wal/main/{from}-"));
    server.restart();
    let site = Site { place, server };
    site.configure(jobs);
    site.sql("INSERT INTO t VALUES (3); SELECT pg_switch_wal()");
    until("it is refused", || site.sql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t");
    assert!(site.server.log().contains("strongroom wal adopt"), "{}", site.server.log());
    site.place.run(&["wal", "adopt", "--job", "acme/wal", "--data-directory", &site.server.data()]).ok();
    archived(&site.server);

    // Until there is a base backup of the new cluster, the newest of the former one is not taken for its own.
    let elsewhere = format!("--tablespace-map={}={}", space.display(), site.place.path("elsewhere"));
    site.refused(&["--target-time", &site.moment(), &elsewhere], 1, &["another system took the place", "What can be reached"]);
    let notes = site.preview(&[&elsewhere])["notes"].to_string();
    assert!(notes.contains("before another system took its place"), "{notes}");
    let new_base = site.backup();
    site.sql("INSERT INTO t VALUES (4)");
    let four = site.moment();
    site.sql("INSERT INTO t VALUES (5)");
    archived(&site.server);
    assert_eq!(site.preview(&[&elsewhere])["snapshot"], new_base.as_str());
    assert_eq!(site.preview(&["--target-time", &two, &elsewhere])["snapshot"], old_base.as_str());
    assert_eq!(site.place.objects(&format!("/wal/main/{from}-")), old_wal, "the former archive stays as it was");

    let map = |to: &str| format!("--tablespace-map={}={to}", space.display());
    for (n, (major, target, rows)) in [
        (to, &[][..], "1,2,3,4,5"),
        (to, &["--target-time", &four][..], "1,2,3,4"),
        (from, &["--target-time", &two][..], "1,2"),
        (from, &["--snapshot", &old_base[..12]][..], "1,2"),
    ]
    .into_iter()
    .enumerate()
    {
        let map = map(&site.place.path(&format!("far-{n}")));
        let server = site.recovered_as(major, &[target, &[map.as_str()]].concat());
        assert_eq!(rows_after_promotion(&server), rows, "{target:?}\n{}", server.log());
    }
    drop(old);
}

#[test]
fn version_14_to_18() {
    is_carried_over(14, 18);
}

#[test]
fn version_16_to_17() {
    is_carried_over(16, 17);
}
