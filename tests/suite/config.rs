//! The configuration: every mistake at once, with its path and place; the example and the schema agree with the reader.

use strongroom::config::{EXAMPLE, Format, Mistake, Mistakes, Settings, load_text, schema};
use strongroom::source::SourceSettings as Source;
use strongroom::store::{AzureAuth, StoreUrl};

fn yaml(text: &str) -> Result<Settings, Mistakes> {
    load_text(text, Format::Yaml, Some("test.yaml"), [])
}

fn mistakes(text: &str) -> Vec<Mistake> {
    yaml(text).expect_err("mistakes").0
}

/// A valid file with `extra` in front.
fn with(extra: &str) -> String {
    format!(
        "{extra}\nrepository: {{ url: file:///srv/backups, password: {{ value: x }} }}\ntenants: {{ acme: {{ jobs: {{ a: {{ volume: {{ path: /data }} }} }} }} }}\n"
    )
}

#[test]
fn every_mistake_is_reported_with_path_line_and_nearest_name() {
    let found = mistakes(
        r#"
enviroment: production
repository:
  url: s3://bucket/root
  s3: { checksum: oto, path_style: "yes", endpoint: "http://minio:9000" }
  password: secret
tenants:
  acme:
    jobs:
      orders:
        pg_dump: { url: { env: ACME_URL }, databses: [x] }
        schedule: "61 * * * *"
        keep: { daily: 0 }
      uploads:
        volume: { path: relative, exclude: "cache/**" }
        polici: hourly
      both: { volume: { path: /a }, command: { run: [x] } }
      none: { policy: dayly }
      base: { pg_base: { url: "postgres://h/d", data_directory: d, cluster: Main, from: stanby, wal_timeout: long, max_rate: 1k } }
  Wrong_Name: { jobs: { a: { volume: { path: 5 } } } }
limits: { memory: lots, jobs: 0, quiet_hours: ["08:00"] }
"#,
    );
    let text = Mistakes(found.clone()).to_string();
    let at = |path: &str| found.iter().find(|m| m.path == path).unwrap_or_else(|| panic!("no mistake at {path} in\n{text}"));
    assert_eq!(at("enviroment").hint.as_deref(), Some("Did you mean `environment`?"));
    assert_eq!((at("enviroment").line, at("enviroment").column), (Some(2), Some(1)));
    assert_eq!(at("enviroment").origin.as_deref(), Some("test.yaml"));
    assert_eq!(at("repository.s3.checksum").hint.as_deref(), Some("Did you mean `auto`?"));
    assert!(at("repository.s3.path_style").message.contains("expected true or false, found a text"));
    assert!(at("repository.s3.endpoint").message.contains("allow_http"));
    assert!(at("repository.password").hint.as_deref().is_some_and(|h| h.contains("{ file: … }")));
    assert_eq!(at("tenants.acme.jobs.orders.pg_dump.databses").hint.as_deref(), Some("Did you mean `databases`?"));
    assert_eq!(at("tenants.acme.jobs.orders.schedule").line, Some(12));
    at("tenants.acme.jobs.orders.keep.daily");
    at("tenants.acme.jobs.uploads.volume.path");
    assert!(at("tenants.acme.jobs.uploads.volume.exclude").message.contains("expected a list"));
    assert_eq!(at("tenants.acme.jobs.uploads.polici").hint.as_deref(), Some("Did you mean `policy`?"));
    assert!(at("tenants.acme.jobs.both").message.contains("one source"));
    assert_eq!(at("tenants.acme.jobs.none.policy").hint.as_deref(), Some("Did you mean `daily`?"));
    for field in ["data_directory", "cluster", "from", "wal_timeout", "max_rate"] {
        at(&format!("tenants.acme.jobs.base.pg_base.{field}"));
    }
    at("tenants.Wrong_Name");
    assert!(at("tenants.Wrong_Name.jobs.a.volume.path").message.contains("expected a text, found a number"));
    at("limits.memory");
    at("limits.jobs");
    at("limits.quiet_hours");
    at("tenants.acme.jobs.none");
    assert_eq!(found.len(), 24, "one more or less than expected:\n{text}");
    let lines: Vec<_> = found.iter().map(|m| m.line).collect();
    assert!(lines.is_sorted(), "in the order of the file: {lines:?}");
}

#[test]
fn syntax_errors_carry_the_place() {
    let found = mistakes("tenants:\n  acme: { jobs: [\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].line.is_some(), "{found:?}");
    let twice = mistakes("environment: a\nenvironment: b\n");
    assert!(twice[0].message.contains("environment"), "{twice:?}");
    assert!(mistakes("just a text").iter().any(|m| m.message.contains("not a table")));
    assert!(mistakes("").iter().any(|m| m.path == "tenants"), "an empty file has no tenant");
}

#[test]
fn mistakes_become_one_error_of_kind_config() {
    let e: strongroom::error::Error = yaml(&with("a: 1\nb: 2")).expect_err("two").into();
    assert_eq!(e.kind().exit_code(), 78);
    assert!(e.report().contains("2 mistakes") && e.report().contains("test.yaml:1:1: a: unknown key"), "{}", e.report());
}

#[test]
fn the_example_is_valid_and_fits_the_schema() {
    let settings = yaml(EXAMPLE).expect("the example");
    assert_eq!(settings.tenants.len(), 1);
    let schema = schema();
    assert_eq!(schema["additionalProperties"], false);
    for name in ["environment", "repository", "tenants", "http", "limits", "policies"] {
        assert!(
            schema["properties"][name]["description"].is_string()
                || schema["properties"][name]["$ref"].is_string()
                || schema["properties"][name]["anyOf"].is_array(),
            "{name}"
        );
    }
    // Commented settings of the example are offers; each must be one that exists.
    let offers = EXAMPLE.replace("      # orders:", "      orders:").replace("      #   ", "        ");
    let offers = offers
        .replace("      # cluster:", "      cluster:")
        .replace("      # broker:", "      broker:")
        .replace("# http:", "http:")
        .replace("  # quiet_hours", "  quiet_hours");
    yaml(&offers).unwrap_or_else(|m| panic!("{m}"));
}

#[test]
fn the_shape_fixed_in_the_design_is_read() {
    let text = r#"
environment: production
repository:
  url: s3://ameide-backups/ameide
  s3: { region: eu-central-1, endpoint: "https://minio", path_style: true, checksum: auto, sse: { kms_key_id: k }, storage_class: STANDARD_IA }
  password: { file: "/etc/strongroom/keys/{tenant}" }
tenants:
  acme:
    jobs:
      orders:  { pg_dump: { url: { env: ACME_URL }, databases: ["ameide_acme"] }, policy: daily }
      uploads: { volume: { path: /data/uploads, exclude: ["cache/**"] }, policy: hourly }
      broker:  { command: { run: ["rabbitmqctl", "export_definitions", "-"], file: definitions.json }, policy: nightly, keep: { within: 14d } }
  megacorp:
    repository: { url: azblob://megacorp-backups/, azure: { account: megacorpsa, auth: workload_identity } }
http: { metrics: "0.0.0.0:9390", dashboard: "127.0.0.1:9391" }
limits: { memory: 256MiB, jobs: 4, upload: 200MiB/s, read: 0, quiet_hours: ["08:00-18:00"] }
policies: { nightly: { schedule: "0 2 * * *", timezone: Europe/Berlin, jitter: 20m, keep: { daily: 30 } } }
"#;
    let s = yaml(text).unwrap_or_else(|m| panic!("{m}"));
    let acme = s.tenants.values().next().unwrap();
    let StoreUrl::S3 { bucket, prefix } = &acme.repository.store.url else { panic!("{:?}", acme.repository.store) };
    assert_eq!((bucket.as_str(), prefix.as_str()), ("ameide-backups", "ameide/production/acme"));
    assert_eq!(acme.repository.password.to_string(), "file /etc/strongroom/keys/acme");
    let job = |name: &str| acme.jobs.values().find(|j| j.name.as_str() == name).unwrap();
    assert_eq!(job("orders").keep.map(|k| k.daily), Some(Some(14)));
    assert_eq!(job("broker").keep.map(|k| (k.daily, k.within.map(|w| w.as_secs()))), Some((None, Some(14 * 86_400))));
    assert_eq!(job("broker").jitter.as_secs(), 1200);
    assert!(matches!(&job("broker").source, Source::Command(c) if c.file == "definitions.json"));
    assert_eq!(s.commands, ["tenants.acme.jobs.broker.command.run"]);
    assert_eq!((acme.repository.store.upload_rate, acme.repository.store.download_rate), (200 << 20, 0));
    let mega = s.tenants.values().nth(1).unwrap();
    let StoreUrl::Azure { container, prefix } = &mega.repository.store.url else { panic!("{:?}", mega.repository.store) };
    assert!(matches!(mega.repository.store.azure.auth, AzureAuth::WorkloadIdentity { .. }));
    assert_eq!((container.as_str(), prefix.as_str()), ("megacorp-backups", "production/megacorp"));
}

#[test]
fn toml_and_json_say_the_same() {
    let json = r#"{"repository": {"url": "file:///b", "password": {"value": "x"}}, "tenants": {"acme": {"jobs": {"a": {"volume": {"path": "/d"}}}}}}"#;
    let toml = "[repository]\nurl = \"file:///b\"\npassword = { value = \"x\" }\n[tenants.acme.jobs.a.volume]\npath = \"/d\"\n";
    for (text, format) in [(json, Format::Yaml), (toml, Format::Toml)] {
        let s = load_text(text, format, None, []).unwrap_or_else(|m| panic!("{m}"));
        assert_eq!(s.tenants.len(), 1);
    }
    let wrong = load_text(&toml.replace("path", "pth"), Format::Toml, Some("t.toml"), []).expect_err("unknown key");
    assert!(wrong.0.iter().any(|m| m.path == "tenants.acme.jobs.a.volume.pth"), "{wrong}");
    assert!(load_text("a = ", Format::Toml, None, []).is_err());
}

#[test]
fn the_environment_is_laid_over_the_file() {
    let env = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    let load = |pairs: &[(&str, &str)]| load_text(&with(""), Format::Yaml, Some("test.yaml"), env(pairs));
    let s = load(&[
        ("STRONGROOM__ENVIRONMENT", "staging"),
        ("STRONGROOM__LIMITS__JOBS", "7"),
        ("STRONGROOM__LIMITS__MEMORY", "134217728"),
        ("STRONGROOM__REPOSITORY__PASSWORD__VALUE", "12345"),
        ("STRONGROOM__TENANTS__ACME__JOBS__A__VOLUME__ONE_FILE_SYSTEM", "true"),
        ("STRONGROOM__TENANTS__ACME__JOBS__A__VOLUME__EXCLUDE", r#"["*.tmp", "cache/**"]"#),
        ("STRONGROOM__TENANTS__ACME__JOBS__B__VOLUME__PATH", "/other"),
        ("STRONGROOM__HTTP", "{ metrics: '127.0.0.1:1' }"),
        ("STRONGROOM_LOG", "ignored"),
        ("OTHER", "ignored"),
    ])
    .unwrap_or_else(|m| panic!("{m}"));
    assert_eq!(s.environment.as_str(), "staging");
    assert_eq!((s.limits.jobs, s.limits.memory), (7, Some(128 << 20)));
    let acme = s.tenants.values().next().unwrap();
    assert_eq!(acme.repository.password.read().unwrap().expose(), "12345");
    let Source::Volume(a) = &acme.jobs.values().next().unwrap().source else { panic!() };
    assert!(a.one_file_system);
    assert_eq!(a.exclude, ["*.tmp", "cache/**"]);
    assert_eq!(acme.jobs.len(), 2);
    assert!(s.http.metrics.is_some());
    // A mistake names the variable.
    let wrong = load(&[("STRONGROOM__LIMITS__JOBZ", "7"), ("STRONGROOM__LIMITS__JOBS", "many")]).expect_err("mistakes");
    let origins: Vec<_> = wrong.0.iter().filter_map(|m| m.origin.as_deref()).collect();
    assert_eq!(origins.len(), 2);
    assert!(origins.contains(&"environment variable STRONGROOM__LIMITS__JOBZ"), "{wrong}");
}

#[test]
fn places_must_not_overlap() {
    let two = |layout: &str, extra: &str| {
        yaml(&format!(
            "repository: {{ url: file:///b, layout: \"{layout}\", password: {{ value: x }} }}\ntenants:\n  a: {{ jobs: {{}} }}\n  b: {extra}\n"
        ))
    };
    assert!(two("{root}/{tenant}", "{}").is_ok());
    let same = two("{root}/all", "{}").expect_err("same place");
    assert!(same.to_string().contains("is the repository of tenant `a`"), "{same}");
    let inside = two("{root}/{tenant}", "{ repository: { url: \"file:///b/a\" } }").expect_err("inside");
    assert!(inside.to_string().contains("lies inside the repository of tenant `a`"), "{inside}");
    assert!(two("{root}/{tenant}", "{ repository: { url: \"file:///b/ab\" } }").is_ok(), "ab is not inside a");
    assert!(two("{root}/{tenannt}", "{}").is_err());
    assert!(two("{root}/../{tenant}", "{}").is_err());
    assert!(two("{tenant}", "{}").is_err());
}

#[test]
fn a_store_of_its_own_inherits_no_credentials() {
    let s = yaml(
        "repository: { url: s3://bucket, s3: { access_key_id: k, secret_access_key: { value: s } }, password: { value: x } }\n\
         tenants: { a: {}, b: { repository: { url: s3://other-bucket } }, c: { repository: { compression: 3 } } }\n",
    )
    .unwrap_or_else(|m| panic!("{m}"));
    let keys: Vec<bool> = s.tenants.values().map(|t| t.repository.store.s3.access_key_id.is_some()).collect();
    assert_eq!(keys, [true, false, true]);
}

#[test]
fn urls_of_stores_are_checked() {
    for bad in [
        "",
        "bucket",
        "ftp://x",
        "s3://",
        "s3://Bucket",
        "s3://key:secret@bucket",
        "s3://bucket/../x",
        "file://relative",
        "file:///a/../b",
        "s3://bucket:9000/x",
        "s3s://bucket",
    ] {
        let found = yaml(&with("").replace("file:///srv/backups", &format!("{bad:?}"))).expect_err(bad);
        assert!(found.0.iter().any(|m| m.path == "repository.url"), "{bad}: {found}");
    }
}

#[test]
fn secrets_do_not_print() {
    let s = yaml(&with("").replace("value: x", "value: hunter2")).unwrap_or_else(|m| panic!("{m}"));
    assert!(!format!("{s:?}").contains("hunter2"));
    let wrong = yaml(&with("").replace("value: x", "value: hunter2, file: /x")).expect_err("two places");
    assert!(!wrong.to_string().contains("hunter2"), "{wrong}");
    // Nor does the line in which the mistake is, or the one beside it.
    for text in [
        "environment: test\nrepository: { url: \"postgres://u:hunter2@h/db }\ntenants: {}\n",
        "repository:\n  password: { value: hunter2 }\n  password: [\n",
        "repository:\n  password: { value: hunter2 }\n   url: x\n",
    ] {
        let wrong = yaml(text).expect_err("no YAML");
        assert!(wrong.0.iter().all(|m| m.line.is_some()) && !wrong.to_string().contains("hunter2"), "{wrong}");
    }
    for text in ["password = \"hunter2\nurl = 1\n", "password = \"hunter2\"\npassword = \"hunter2\"\n", "a = hunter2 | x\n"] {
        let wrong = load_text(text, Format::Toml, Some("t.toml"), []).expect_err("no TOML").to_string();
        assert!(wrong.contains("line") && !wrong.contains("hunter2"), "{wrong}");
    }
}

#[test]
fn what_the_documentation_shows_is_read() {
    let k8s = include_str!("../../k8s/config.yaml");
    let file = k8s.split("strongroom.yaml: |\n").nth(1).unwrap().split("\n---").next().unwrap();
    let file: String = file.lines().map(|l| l.strip_prefix("    ").unwrap_or(l).to_owned() + "\n").collect();
    yaml(&file).unwrap_or_else(|m| panic!("k8s/config.yaml: {m}\n{file}"));
    // The README shows pieces: each is completed by what it leaves out.
    let pieces: Vec<&str> =
        include_str!("../../README.md").split("```yaml\n").skip(1).map(|p| p.split("```").next().unwrap()).collect();
    assert!(pieces.len() >= 4, "the README shows configurations");
    for piece in pieces {
        let whole = ["environment:", "repository:", "tenants:"].iter().any(|k| piece.starts_with(k));
        let mut text = if whole {
            piece.to_owned()
        } else {
            let jobs: String = piece.lines().map(|l| format!("      {l}\n")).collect();
            format!("tenants:\n  acme:\n    jobs:\n{jobs}")
        };
        match (text.contains("repository:"), text.contains("password:")) {
            (true, false) => text = text.replacen("repository:\n", "repository:\n  password: { value: x }\n", 1),
            (false, _) => text += "repository: { url: file:///srv, password: { value: x } }\n",
            (true, true) => {}
        }
        if !text.contains("tenants:") {
            text += "tenants: { acme: {} }\n";
        }
        yaml(&text).unwrap_or_else(|m| panic!("{m}\n{text}"));
    }
}

#[test]
fn wal_jobs_are_apart_from_the_others_and_have_defaults() {
    use strongroom::config::settings::{WalCompression, WalMode};
    let text = r#"
repository: { url: file:///srv/backups, password: { value: x } }
tenants:
  acme:
    jobs:
      a: { volume: { path: /data } }
      wal: { pg_wal: { data_directory: /var/lib/postgresql/data } }
      other: { pg_wal: { url: "postgres://h/", cluster: other, socket: none, compression: lz4, max_lag: 2s, socket_uids: [999] } }
"#;
    let settings = yaml(text).expect("valid");
    let acme = settings.tenants.values().next().expect("acme");
    assert_eq!((acme.jobs.len(), acme.wal.len()), (1, 2));
    let wal = &acme.wal[&"wal".parse().expect("a name")].settings;
    assert_eq!((wal.mode, wal.cluster.as_str(), wal.slot.as_str()), (WalMode::Archive, "main", "strongroom"));
    assert_eq!(wal.socket.as_deref(), Some(std::path::Path::new("/run/strongroom/acme.sock")));
    let other = &acme.wal[&"other".parse().expect("a name")].settings;
    assert_eq!((other.mode, other.compression, &other.socket), (WalMode::Receive, WalCompression::Lz4, &None));
    assert_eq!((other.max_lag.as_secs(), other.socket_uids.as_slice()), (2, [999].as_slice()));
}

#[test]
fn mistakes_of_wal_jobs_are_told() {
    let found = mistakes(
        r#"
repository: { url: file:///srv/backups, password: { value: x } }
tenants:
  acme:
    jobs:
      one: { pg_wal: { mode: receive, slot: "No Slot", cluster: "../x", socket: relative, parallel: 0 }, policy: daily, keep: { daily: 1 } }
      two: { pg_wal: { max_lag: 1ms, max_slot_size: 1, socket_uids: [-1] } }
      three: { pg_wal: {} }
  beta: { jobs: { wal: { pg_wal: { socket: /run/strongroom/acme.sock } } } }
"#,
    );
    let text = Mistakes(found.clone()).to_string();
    let one = ["pg_wal.url", "pg_wal.slot", "pg_wal.cluster", "pg_wal.socket", "pg_wal.parallel", "policy", "keep"];
    let one = one.iter().map(|f| format!("tenants.acme.jobs.one.{f}"));
    let two = ["max_lag", "max_slot_size", "socket_uids[0]"].iter().map(|f| format!("tenants.acme.jobs.two.pg_wal.{f}"));
    let others = ["tenants.acme.jobs.two.pg_wal", "tenants.beta.jobs.wal.pg_wal.socket"].map(str::to_owned);
    for path in one.chain(two).chain(others) {
        assert!(found.iter().any(|m| m.path == path), "no mistake at {path} in\n{text}");
    }
    assert_eq!(found.len(), 12, "{text}");
}
