//! The binary as a script sees it: exit codes, JSON documents, use without a configuration file.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::judges;

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }
}

pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    for (name, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("STRONGROOM")) {
        c.env_remove(name);
    }
    c.args(args).current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).stdin(Stdio::null());
    c
}

pub fn run(dir: &Path, args: &[&str]) -> Ran {
    ran(&mut command(dir, args))
}

fn ran(c: &mut Command) -> Ran {
    let o = c.output().unwrap();
    Ran {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8(o.stdout).unwrap(),
        err: String::from_utf8(o.stderr).unwrap(),
    }
}

/// A directory with a password, data, and a repository `repo` that was initialised.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p"), "secret\n").unwrap();
    std::fs::create_dir_all(dir.path().join("data/sub")).unwrap();
    std::fs::write(dir.path().join("data/a.txt"), "alpha").unwrap();
    std::fs::write(dir.path().join("data/sub/b.txt"), "beta").unwrap();
    run(dir.path(), &with(&["init"])).ok();
    dir
}

fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--json", args[0], "--repository", "repo", "--password-file", "p"];
    all.extend(&args[1..]);
    all
}

#[test]
fn a_volume_goes_the_whole_way_without_a_configuration_file() {
    let dir = place();
    let d = dir.path();
    let first = run(d, &with(&["backup", "--volume", "data"])).ok().json();
    let job = &first["jobs"][0];
    assert_eq!((job["tenant"].as_str(), job["job"].as_str(), job["ok"].as_bool()), (Some("default"), Some("volume"), Some(true)));
    assert_eq!(job["report"]["files"], 2);
    std::fs::write(d.join("data/a.txt"), "changed").unwrap();
    run(d, &with(&["backup", "--volume", "data"])).ok();

    let list = run(d, &with(&["snapshots"])).ok().json();
    let snapshots = list["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 2);
    for key in ["id", "time", "tenant", "job", "source", "bytes", "tags", "complete", "hold"] {
        assert!(!snapshots[0][key].is_null(), "{key} in {}", snapshots[0]);
    }
    assert_eq!(snapshots[0]["complete"], true);
    let (a, b) = (snapshots[0]["id"].as_str().unwrap(), snapshots[1]["id"].as_str().unwrap());

    let inside = d.join("data").canonicalize().unwrap();
    let inside = inside.to_str().unwrap();
    let entries = run(d, &with(&["ls", "latest", inside, "-r"])).ok().json();
    let paths: Vec<&str> = entries["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [format!("{inside}/a.txt"), format!("{inside}/sub"), format!("{inside}/sub/b.txt")]);
    assert_eq!(run(d, &with(&["cat", a, &format!("{inside}/a.txt")])).ok().out, "alpha");
    assert_eq!(run(d, &with(&["cat", &b[..8], &format!("{inside}/a.txt")])).ok().out, "changed");
    let diff = run(d, &with(&["diff", a, b])).ok().json();
    assert!(
        diff["differences"]
            .as_array()
            .unwrap()
            .iter()
            .any(|x| x["path"] == format!("{inside}/a.txt") && x["change"] == "modified" && x["bytes"] == 2),
        "{diff}"
    );

    let held = run(d, &with(&["hold", a])).ok().json();
    assert_eq!((held["was"].as_str(), held["hold"].as_bool()), (Some(a), Some(true)));
    // The id from before still names it, and holding it again changes nothing.
    let again = run(d, &with(&["hold", a])).ok().json();
    assert_eq!(again["id"], held["id"]);
    let plan = run(d, &with(&["prune", "--dry-run", "--keep-last", "1"])).ok().json();
    let fates = plan["tenants"][0]["jobs"][0]["snapshots"].as_array().unwrap();
    assert_eq!(fates.iter().filter(|f| f["action"] == "keep").count(), 2, "one is held: {plan}");
    run(d, &with(&["unhold", a])).ok();
    let done = run(d, &with(&["prune", "--keep-last", "1"])).ok().json();
    assert_eq!(done["tenants"][0]["jobs"][0]["removed"], 1, "{done}");
    let left = run(d, &with(&["snapshots"])).ok().json();
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 1);
    let check = run(d, &with(&["check", "--read-data"])).ok().json();
    assert_eq!(check["repositories"][0]["ok"], true);
    judges::judge(&d.join("repo"), "secret").restic(0);
}

#[test]
fn a_program_s_output_goes_in_and_comes_out() {
    let dir = place();
    let d = dir.path();
    run(d, &with(&["backup", "--command", "--file", "out.txt", "--tenant", "acme", "--job", "dump", "--", "echo", "hello"])).ok();
    assert_eq!(run(d, &with(&["cat", "latest", "out.txt"])).ok().out, "hello\n");
    let restored = run(d, &with(&["restore", "acme/dump", "--to", "back.txt"])).ok().json();
    assert_eq!(
        (restored["outcome"].as_str(), restored["source"].as_str(), restored["job"].as_str()),
        (Some("restored"), Some("command"), Some("dump"))
    );
    assert_eq!(std::fs::read_to_string(d.join("back.txt")).unwrap(), "hello\n");
    assert_eq!(run(d, &with(&["restore", "--to", "-"])).ok().out, "hello\n");
    run(d, &with(&["restore", "--to-command", "sh", "-c", "cat > fed.txt"])).ok();
    assert_eq!(std::fs::read_to_string(d.join("fed.txt")).unwrap(), "hello\n");
    // Exit status decides: no snapshot of a failed program.
    let failed = run(d, &with(&["backup", "--command", "--", "sh", "-c", "echo partial; exit 3"])).exits(1).json();
    assert_eq!(failed["jobs"][0]["ok"], false);
    assert!(failed["jobs"][0]["error"]["message"].as_str().unwrap().contains("exit status"), "{failed}");
    assert_eq!(run(d, &with(&["snapshots"])).ok().json()["snapshots"].as_array().unwrap().len(), 1);
    let wrong = run(d, &with(&["restore", "acme/dump", "--to", "x", "--create"])).exits(2);
    assert_eq!(wrong.json()["error"]["kind"], "usage");
}

#[test]
fn exit_codes_and_the_shape_of_errors_are_as_documented() {
    let dir = place();
    let d = dir.path();
    std::fs::write(d.join("wrong"), "wrong").unwrap();
    std::fs::write(d.join("bad.yaml"), "tenant: {}\nlimits: { jobs: x }\n").unwrap();
    // 2: usage.
    run(d, &["nonsense"]).exits(2);
    run(d, &["backup"]).exits(2);
    run(d, &["snapshots", "--repository", "repo"]).exits(2);
    run(d, &with(&["ls", "not-an-id"])).exits(2);
    run(d, &["--config", "bad.yaml", "snapshots", "--repository", "repo", "--password-file", "p"]).exits(2);
    // 10: no repository; never made by a backup.
    let none = run(d, &["backup", "--json", "--repository", "elsewhere", "--password-file", "p", "--volume", "data"]).exits(10);
    assert!(!d.join("elsewhere/config").exists());
    assert_eq!(none.json()["jobs"][0]["error"]["kind"], "no_repository");
    let none = run(d, &["snapshots", "--repository", "elsewhere", "--password-file", "p", "--json"]).exits(10);
    let error = none.json()["error"].clone();
    assert_eq!((error["kind"].as_str(), error["exit_code"].as_u64()), (Some("no_repository"), Some(10)));
    assert!(error["message"].is_string() && error["hint"].is_string());
    assert!(none.err.contains("error: ") && none.err.contains("hint: "), "{}", none.err);
    // 12: wrong password.
    run(d, &["snapshots", "--repository", "repo", "--password-file", "wrong"]).exits(12);
    // 1: what was named does not exist.
    run(d, &with(&["cat", "latest", "/none"])).exits(1);
    run(d, &with(&["restore", "--to", "x"])).exits(1);
    // 78: bad configuration, every mistake at once.
    let bad = run(d, &["--config", "bad.yaml", "--json", "config", "check"]).exits(78).json();
    let paths: Vec<&str> = bad["mistakes"].as_array().unwrap().iter().map(|m| m["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"tenant") && paths.contains(&"limits.jobs") && paths.contains(&"tenants"), "{bad}");
    let bad = run(d, &["--config", "bad.yaml", "status"]).exits(78);
    assert!(bad.err.contains("bad.yaml:1:1: tenant: unknown key. Did you mean `tenants`?"), "{}", bad.err);
    run(d, &["--config", "missing.yaml", "config", "check"]).exits(78);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_repository_is_exit_11() {
    use std::sync::Arc;
    use strongroom::repository::{LockMode, RepoEnv, Repository};
    use strongroom::runtime::{Cancel, SecretText, SystemClock};
    let dir = place();
    let store = Arc::new(strongroom::store::LocalStore::open(dir.path().join("repo"), Arc::new(SystemClock)).unwrap());
    let env = RepoEnv { clock: Arc::new(SystemClock), cache_dir: None };
    let repo = Repository::open(store, &SecretText::new("secret".into()), &env).await.unwrap();
    let lock = repo.lock(LockMode::Exclusive, &crate::backup::holder(), &Cancel::new()).await.unwrap();
    let d = dir.path().to_owned();
    let locked = tokio::task::spawn_blocking(move || run(&d, &with(&["backup", "--volume", "data"]))).await.unwrap();
    assert_eq!(locked.exits(11).json()["jobs"][0]["error"]["kind"], "locked");
    lock.release().await.unwrap();
    let d = dir.path().to_owned();
    tokio::task::spawn_blocking(move || run(&d, &with(&["backup", "--volume", "data"]))).await.unwrap().ok();
}

#[test]
fn the_example_works_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let text = run(d, &["config", "example"]).ok().out.replace("/tmp/strongroom-demo", d.to_str().unwrap());
    std::fs::write(d.join("strongroom.yaml"), text).unwrap();
    std::fs::create_dir(d.join("data")).unwrap();
    std::fs::write(d.join("data/now"), "now").unwrap();
    // Found in the working directory without --config.
    let check = run(d, &["config", "check", "--json"]).ok().json();
    assert_eq!((check["ok"].as_bool(), check["jobs"].as_u64()), (Some(true), Some(1)));
    let made = run(d, &["init", "--json"]).ok().json();
    assert_eq!(made["repositories"][0]["created"], true);
    assert_eq!(run(d, &["init", "--json"]).ok().json()["repositories"][0]["created"], false, "safe to repeat");
    let never = run(d, &["status", "--json"]).ok().json();
    assert_eq!(never["jobs"][0]["state"], "never");
    run(d, &["status", "--check"]).exits(1);
    run(d, &["backup", "--all"]).ok();
    assert_eq!(run(d, &["status", "--json", "--check"]).ok().json()["jobs"][0]["state"], "ok");
    assert!(d.join("store/production/acme/config").exists());
    let doctor = run(d, &["doctor", "--json"]).ok().json();
    assert_eq!(doctor["ok"], true, "{doctor}");
    let probes: Vec<&str> = doctor["probes"].as_array().unwrap().iter().map(|p| p["probe"].as_str().unwrap()).collect();
    for probe in ["reach", "write", "read", "list", "conditional_put", "delete", "clock", "repository", "source"] {
        assert!(probes.contains(&probe), "{probe} in {probes:?}");
    }
    let coverage = run(d, &["coverage", "--json", "--check"]).ok().json();
    assert_eq!(coverage["gaps"].as_array().map(Vec::len), Some(0), "{coverage}");
    // Names that do not exist: the nearest one is told.
    let typo = run(d, &["backup", "acme/uplods"]).exits(2);
    assert!(typo.err.contains("Did you mean `uploads`?"), "{}", typo.err);
    let other = run(d, &["snapshots", "acmee"]).exits(2);
    assert!(other.err.contains("Did you mean `acme`?"), "{}", other.err);
}

#[test]
fn the_environment_overlays_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::write(d.join("strongroom.yaml"), "tenants: { acme: {} }\nrepository: { url: file:///nowhere }\n").unwrap();
    run(d, &["config", "check"]).exits(78);
    let env = [
        ("STRONGROOM__REPOSITORY__URL", format!("file://{}", d.display())),
        ("STRONGROOM__REPOSITORY__PASSWORD__VALUE", "x".into()),
    ];
    let set = |extra: &[(&str, &str)], args: &[&str]| {
        let mut c = command(d, args);
        c.envs(env.iter().map(|(k, v)| (*k, v.as_str()))).envs(extra.iter().copied());
        ran(&mut c)
    };
    set(&[], &["init"]).ok();
    let wrong = set(&[("STRONGROOM__REPOSITRY__URL", "x")], &["init"]).exits(78);
    assert!(
        wrong.err.contains("environment variable STRONGROOM__REPOSITRY__URL") && wrong.err.contains("Did you mean `repository`?"),
        "{}",
        wrong.err
    );
    // Store settings of an ad-hoc repository come from there too.
    let wrong = set(&[("STRONGROOM__REPOSITORY__S3__REGION", "x")], &["snapshots", "--repository", "repo"]).exits(2);
    assert!(wrong.err.contains("does not belong to a local store"), "{}", wrong.err);
}

#[test]
fn programs_in_a_configuration_run_only_with_leave() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let config = format!(
        "repository: {{ url: \"file://{}/store\", password: {{ value: x }} }}\ntenants: {{ acme: {{ jobs: {{ c: {{ command: {{ run: [\"sh\", \"-c\", \"echo $SAID\"], env: {{ SAID: word }} }} }} }} }} }}\n",
        d.display()
    );
    std::fs::write(d.join("strongroom.yaml"), config).unwrap();
    run(d, &["init"]).ok();
    let refused = run(d, &["backup", "acme"]).exits(1);
    assert!(
        refused.err.contains("tenants.acme.jobs.c.command.run") && refused.err.contains("--allow-commands"),
        "{}",
        refused.err
    );
    run(d, &["--allow-commands", "backup", "acme"]).ok();
    assert_eq!(run(d, &["cat", "acme/c:latest", "output"]).ok().out, "word\n");
    let check = run(d, &["config", "check", "--json"]).ok().json();
    assert_eq!(check["commands"][0], "tenants.acme.jobs.c.command.run");
}

#[test]
fn a_signal_ends_a_backup_in_order_and_a_second_one_at_once() {
    let dir = place();
    let d = dir.path();
    let start = || {
        command(d, &with(&["backup", "--command", "--", "sleep", "613"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let signal = |child: &std::process::Child, name: &str| {
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success())
    };
    let locks = || std::fs::read_dir(d.join("repo/locks")).map_or(0, Iterator::count);
    let wait_for_lock = || {
        let began = Instant::now();
        while locks() == 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "no lock appeared");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(400));
    };
    for name in ["-TERM", "-INT"] {
        let mut child = start();
        wait_for_lock();
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{name}");
        assert_eq!(locks(), 0, "the lock is given back");
    }
    assert_eq!(run(d, &with(&["snapshots"])).ok().json()["snapshots"].as_array().unwrap().len(), 0);
}

#[test]
fn keys_are_added_and_removed() {
    let dir = place();
    let d = dir.path();
    std::fs::write(d.join("q"), "second").unwrap();
    let added =
        run(d, &["--json", "key", "add", "--repository", "repo", "--password-file", "p", "--new-password-file", "q"]).ok().json();
    let id = added["id"].as_str().unwrap().to_owned();
    let list = run(d, &["--json", "key", "list", "--repository", "repo", "--password-file", "q"]).ok().json();
    let keys = list["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys.iter().find(|k| k["current"] == true).unwrap()["id"], id.as_str());
    run(d, &["key", "remove", "--id", &id[..8], "--repository", "repo", "--password-file", "q"]).exits(2);
    run(d, &["key", "remove", "--id", &id[..8], "--repository", "repo", "--password-file", "p"]).ok();
    run(d, &["key", "list", "--repository", "repo", "--password-file", "q"]).exits(12);
    let unlocked = run(d, &with(&["unlock"])).ok().json();
    assert_eq!(unlocked["removed"], 0);
}

#[test]
fn the_command_surface_is_there_and_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for name in [
        "init",
        "backup",
        "run",
        "snapshots",
        "restore",
        "ls",
        "cat",
        "diff",
        "check",
        "prune",
        "hold",
        "unhold",
        "unlock",
        "key list",
        "key add",
        "key remove",
        "status",
        "coverage",
        "doctor",
        "config check",
        "config schema",
        "config example",
        "completions",
        "version",
    ] {
        let mut args: Vec<&str> = name.split(' ').collect();
        args.push("--help");
        let help = run(d, &args).ok();
        assert!(help.out.contains("Usage: strongroom"), "{name}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(d, &["completions", shell]).ok().out.contains("snapshots"), "{shell}");
    }
    assert!(run(d, &["version", "--json"]).ok().json()["version"].is_string());
    let schema: Value = run(d, &["config", "schema"]).ok().json();
    assert_eq!(schema["title"], "Strongroom configuration");
    assert!(schema["$defs"].is_object());
}

#[test]
fn a_volume_is_restored_and_restored_only_once_if_empty() {
    let dir = place();
    let d = dir.path();
    // Before there is a backup: nothing to restore is an answer, an unreachable repository is not.
    let fresh = ["restore", "default/volume", "--to", "new", "--if-empty"];
    let unknown = run(
        d,
        &["restore", "default/volume", "--to", "unknown", "--if-empty", "--repository", "nowhere", "--password-file", "p"],
    )
    .exits(10);
    assert!(unknown.err.contains("no repository"), "{}", unknown.err);
    let first = run(d, &with(&fresh)).ok().json();
    assert_eq!((first["outcome"].as_str(), first["snapshot"].is_null()), (Some("fresh"), true));
    run(d, &with(&["backup", "--volume", "data"])).ok();
    assert_eq!(run(d, &with(&fresh)).ok().json()["outcome"], "left_alone", "settled before");

    let into = run(d, &with(&["restore", "default/volume", "--to", "empty", "--if-empty"])).ok().json();
    assert_eq!((into["outcome"].as_str(), into["result"]["files"].as_u64()), (Some("restored"), Some(2)), "{into}");
    assert_eq!(std::fs::read_to_string(d.join("empty/sub/b.txt")).unwrap(), "beta");

    let whole = run(d, &with(&["restore", "--to", "back", "--verify"])).ok().json();
    assert_eq!((whole["outcome"].as_str(), whole["source"].as_str()), (Some("restored"), Some("volume")));
    let same = Command::new("diff").args(["-r", "data", "back"]).current_dir(d).status().unwrap();
    assert!(same.success());
    std::fs::write(d.join("back/extra"), "extra").unwrap();
    std::fs::write(d.join("back/a.txt"), "other").unwrap();
    let again = run(d, &with(&["restore", "--to", "back", "--delete", "--include", "*"])).ok().json();
    assert_eq!(again["result"]["deleted"], 1, "{again}");
    assert!(Command::new("diff").args(["-r", "data", "back"]).current_dir(d).status().unwrap().success());
    run(d, &with(&["restore", "--to", "s3://bucket"])).exits(2);
}

#[test]
fn a_snapshot_that_another_program_thinned_out_is_passed_over() {
    let dir = place();
    let d = dir.path();
    run(d, &with(&["backup", "--volume", "data"])).ok();
    std::fs::write(d.join("data/late"), "late").unwrap();
    run(d, &with(&["backup", "--volume", "data"])).ok();
    let newest = run(d, &with(&["snapshots"])).ok().json()["snapshots"][1]["id"].as_str().unwrap().to_owned();
    judges::restic(&d.join("repo"), "secret", &["rewrite", "--exclude", "late", "--forget", &newest]);
    let restored = run(d, &with(&["restore", "--to", "back"])).ok();
    assert!(restored.err.contains("altered by another program"), "{}", restored.err);
    assert!(!d.join("back/late").exists() && d.join("back/a.txt").exists(), "the snapshot before it was taken");
}

#[test]
fn a_database_goes_in_and_comes_out_without_a_configuration_file() {
    use crate::support::postgres::shared;
    let (dir, server) = (place(), shared(16));
    let d = dir.path();
    let to = server.url("postgres", "").read().unwrap().expose().to_owned();
    let run = |args: &[&str]| ran(command(d, args).env("STRONGROOM_PG_BIN_DIRS", server.bin()).env("CLI_SERVER", &to));
    server.create_database("cli_shop");
    server.sql("postgres", "DROP DATABASE IF EXISTS cli_back");
    server.sql("cli_shop", "CREATE TABLE t AS SELECT g AS x FROM generate_series(1, 1000) g");
    let url = server.url("postgres", "cli_shop").read().unwrap().expose().to_owned();
    let made = run(&with(&["backup", "--pg-dump", &url])).ok().json();
    assert_eq!((made["jobs"][0]["job"].as_str(), made["jobs"][0]["source"].as_str()), (Some("pg-dump"), Some("pg_dump")));
    let files = run(&with(&["ls", "latest", "databases"])).ok().json();
    assert_eq!(files["entries"][0]["path"], "/databases/cli_shop.dump");
    let back = run(&with(&["restore", "--to", "env:CLI_SERVER", "--create", "--target-database", "cli_back"])).ok().json();
    assert_eq!(back["result"]["databases"][0]["database"], "cli_back", "{back}");
    assert_eq!(server.sql("cli_back", "SELECT sum(x) FROM t").trim(), "500500");
    let again = run(&with(&["restore", "--to", &to, "--create", "--target-database", "cli_back"]));
    assert_ne!(again.code, 0, "it exists already");
    run(&with(&["restore", "--to", "dumps"])).ok();
    assert!(d.join("dumps/databases/cli_shop.dump").exists() && d.join("dumps/globals.sql").exists());
    // A configuration that covers one of the server's databases, and what it leaves out.
    server.create_database("cli_forgotten");
    let config = format!(
        "repository: {{ url: \"file://{0}/store\", password: {{ value: x }} }}\ntenants: {{ acme: {{ jobs: {{ db: {{ pg_dump: {{ url: {1:?}, databases: [cli_shop], client_dirs: [{2:?}] }}, policy: daily }} }} }} }}\n",
        d.display(),
        url,
        server.bin()
    );
    std::fs::write(d.join("strongroom.yaml"), config).unwrap();
    run(&["init"]).ok();
    let doctor = run(&["doctor", "--json"]).ok().json();
    assert!(doctor["probes"].as_array().unwrap().iter().any(|p| p["probe"] == "tools" && p["outcome"] == "pass"), "{doctor}");
    run(&["backup", "acme/db"]).ok();
    let coverage = run(&["coverage", "--json", "--check"]).exits(1).json();
    let gaps: Vec<&str> = coverage["gaps"].as_array().unwrap().iter().filter_map(|g| g["message"].as_str()).collect();
    assert!(gaps.iter().any(|g| g.contains("cli_forgotten")) && !gaps.iter().any(|g| g.contains("cli_shop")), "{gaps:?}");
}

#[test]
fn what_could_not_be_read_makes_the_snapshot_incomplete_and_the_exit_code_3() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let dir = place();
    let d = dir.path();
    // The copy is where somebody else may run it, whatever the rights of the build's directory.
    let binary = d.join("strongroom");
    crate::support::copy_program(Path::new(env!("CARGO_BIN_EXE_strongroom")), &binary);
    let root = crate::support::tree::is_root();
    let hand_over = |path: &Path| {
        if root {
            chown(path, Some(12345), Some(12345)).unwrap();
        }
    };
    let secret = d.join("data/secret");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(d, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::remove_dir_all(d.join("repo")).unwrap();
    for name in ["repo", "data"] {
        std::fs::create_dir_all(d.join(name)).unwrap();
        hand_over(&d.join(name));
    }
    let somebody = |args: &[&str]| {
        let mut c = if root { Command::new("setpriv") } else { Command::new(&binary) };
        if root {
            c.args(["--reuid", "12345", "--regid", "12345", "--clear-groups", "--inh-caps=-all"]).arg(&binary);
        }
        c.args(with(args)).current_dir(d).env("HOME", d);
        ran(&mut c)
    };
    somebody(&["init"]).ok();
    let partial = somebody(&["backup", "--volume", "data"]).exits(3);
    let report = partial.json()["jobs"][0]["report"].clone();
    assert_eq!((report["complete"].as_bool(), report["missing"].as_array().map(Vec::len)), (Some(false), Some(1)), "{report}");
    assert!(partial.err.contains("secret"), "{}", partial.err);
    let list = somebody(&["snapshots"]).ok().json();
    assert_eq!(list["snapshots"][0]["complete"], false);
    assert_eq!(somebody(&["status"]).ok().json()["jobs"][0]["state"], "incomplete");
    // It is not what `latest` means, but it can be named.
    let none = somebody(&["restore", "--to", "back"]).exits(1).json();
    assert!(none["error"]["hint"].as_str().unwrap().contains("incomplete"), "{none}");
}
