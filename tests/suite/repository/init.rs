use strongroom::error::Kind;
use strongroom::repository::InitOutcome;

use super::*;
use crate::support::judges;

async fn init(store: Arc<dyn Store>, password: &str) -> strongroom::error::Result<(Repository, InitOutcome)> {
    Repository::init(store, &SecretText::new(password.into()), &env(), &holder()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_ended_half_way_is_completed_by_the_next() {
    // The order of key files decides which one a stock client tries first, so one round proves little.
    for _ in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        for left in [1, 0] {
            assert!(init(failing(dir.path(), left, ErrorKind::Other), PASSWORD).await.is_err());
        }
        assert_eq!(init(local(dir.path()), PASSWORD).await.unwrap().1, InitOutcome::Created);
        assert_eq!(objects(&dir.path().join("keys")).len(), 1);
        judges::restic(dir.path(), PASSWORD, &["cat", "config"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_passwords_at_once_one_wins() {
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        // One of them finds the key of an attempt that ended half-way.
        assert!(init(failing(dir.path(), 1, ErrorKind::Other), "one").await.is_err());
        let made = futures::future::join_all(["one", "two", "one", "two"].map(|p| init(local(dir.path()), p))).await;
        let created: Vec<&Repository> =
            made.iter().flatten().filter(|(_, o)| *o == InitOutcome::Created).map(|(r, _)| r).collect();
        assert_eq!(created.len(), 1);
        for made in &made {
            match made {
                Ok((repo, _)) => assert_eq!(repo.id(), created[0].id()),
                Err(e) => assert_eq!(e.kind(), Kind::WrongPassword, "{}", e.report()),
            }
        }
        let opens = |p: &str| judges::restic_command(dir.path(), p, &["cat", "config"]).output().unwrap().status.success();
        assert!(opens("one") != opens("two"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_created_over_the_remains_of_a_repository() {
    let f = Fixture::new().await;
    f.backup(1, &files(&[("a", 1000, 1)])).await;
    std::fs::remove_file(f.path().join("config")).unwrap();
    let refused = init(local(f.path()), PASSWORD).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.report());
    assert!(!f.path().join("config").exists());
    let missing = Repository::open(local(f.path()), &SecretText::new(PASSWORD.into()), &env()).await.err().unwrap();
    assert_eq!(missing.kind(), Kind::NoRepository);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_asks_for_too_much_memory_is_refused() {
    let f = Fixture::new().await;
    let path = &f.objects("keys")[0];
    let json = std::fs::read_to_string(path).unwrap().replace("\"N\":32768", "\"N\":33554432");
    std::fs::remove_file(path).unwrap();
    let name = strongroom::crypto::sha256(json.as_bytes()).to_hex();
    std::fs::write(path.with_file_name(name), json).unwrap();
    let refused = Repository::open(local(f.path()), &SecretText::new(PASSWORD.into()), &env()).await.err().unwrap();
    assert!(refused.report().contains("N=33554432"), "{}", refused.report());
}
