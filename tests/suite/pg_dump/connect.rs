//! Logging in: passwords, password files, TLS modes, lists of hosts; by our own sessions and by the client tools alike.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use strongroom::error::{Kind, Result};
use strongroom::postgres::{ConnectionSettings, Session};
use strongroom::runtime::{Cancel, Secret, SecretText};
use strongroom::source::pg_dump::Settings;

use super::dump::dump;
use crate::support::postgres::{Server, shared};
use crate::support::sink::Memory;

/// A session and a dump: both must agree.
fn both(server: &Server, url: &str) -> Result<()> {
    let settings = ConnectionSettings::parse(&SecretText::new(url.to_owned()))?;
    Session::open(&settings, &Cancel::new())?;
    let mut s = Settings::new(Secret::Value(SecretText::new(url.to_owned())));
    s.client_dirs = vec![server.bin()];
    s.globals = false;
    let mut sink = Memory::default();
    dump(&s, &mut sink).map(|_| ())
}

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").args(args.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, a server certificate for `localhost`, and another authority.
pub fn certificates(dir: &Path) {
    for ca in ["ca", "other"] {
        openssl(
            dir,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -keyout {ca}.key -out {ca}.crt -subj /CN={ca}"
            ),
        );
    }
    openssl(
        dir,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
    );
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(dir, "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile san -out server.crt");
}

#[test]
fn passwords_and_tls_modes_work_as_libpq_defines_them() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = Server::start_with(17, true, "");
    server.sql("postgres", "CREATE ROLE pw LOGIN SUPERUSER PASSWORD 'it''s :secret/@'");
    server.install_tls(&dir.path().join("server.crt"), &dir.path().join("server.key"));
    let port = server.port();
    let (ca, other) = (dir.path().join("ca.crt").display().to_string(), dir.path().join("other.crt").display().to_string());
    let url = |host: &str, rest: &str| format!("postgresql://pw:it%27s%20:secret%2F%40@{host}:{port}/postgres{rest}");

    for rest in ["", "?sslmode=require", "?sslmode=prefer", "?sslmode=allow"].map(str::to_owned).into_iter().chain([
        format!("?sslmode=verify-ca&sslrootcert={ca}"),
        format!("?sslmode=verify-full&sslrootcert={ca}"),
        format!("?sslmode=require&sslrootcert={ca}"),
        format!("?sslmode=require&sslnegotiation=direct&sslrootcert={ca}"),
    ]) {
        both(&server, &url("localhost", &rest)).unwrap_or_else(|e| panic!("{rest}: {}", e.report()));
    }
    both(&server, &url("127.0.0.1", &format!("?sslmode=verify-ca&sslrootcert={ca}"))).unwrap();

    for (host, rest) in [
        ("127.0.0.1", format!("?sslmode=verify-full&sslrootcert={ca}")),
        ("localhost", format!("?sslmode=verify-ca&sslrootcert={other}")),
        ("localhost", format!("?sslmode=require&sslrootcert={other}")),
    ] {
        let error = both(&server, &url(host, &rest)).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{rest}");
        assert!(
            error.report().contains("certificate") && error.report().contains("hint: Check sslmode and sslrootcert"),
            "{}",
            error.report()
        );
    }
    assert_eq!(both(&server, &url("localhost", "?sslmode=verify-full")).unwrap_err().kind(), Kind::Config);
    // The server insists on encryption for TCP.
    let error = both(&server, &url("localhost", "?sslmode=disable")).unwrap_err();
    assert!(error.kind() == Kind::Denied && error.report().contains("no encryption"), "{}", error.report());

    let wrong = both(&server, &format!("postgresql://pw:hunter2@localhost:{port}/postgres")).unwrap_err().report();
    assert!(
        wrong.contains("password authentication failed")
            && wrong.contains("hint: Check user and password")
            && !wrong.contains("hunter2"),
        "{wrong}"
    );

    // A password file, which only its owner may read.
    let passfile = dir.path().join("pass");
    std::fs::write(&passfile, format!("localhost:{port}:*:pw:it's \\:secret/@\n")).unwrap();
    let by_file = format!("postgresql://pw@localhost:{port}/postgres?passfile={}", passfile.display());
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(both(&server, &by_file).unwrap_err().report().contains("hint: Run chmod 0600"));
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    both(&server, &by_file).unwrap();

    // The first host does not answer.
    both(
        &server,
        &format!("postgresql://pw@127.0.0.1:1,localhost:{port}/postgres?passfile={}&connect_timeout=5", passfile.display()),
    )
    .unwrap();
    let error = both(&server, "postgresql://pw@127.0.0.1:1/postgres").unwrap_err();
    assert!(
        error.kind() == Kind::Unavailable
            && error.report().contains("connect to PostgreSQL at 127.0.0.1:1: ")
            && error.report().contains("Connection refused"),
        "{}",
        error.report()
    );
}

#[test]
fn roles_of_servers_and_odd_names_are_respected() {
    let server = shared(15);
    server.sql("postgres", "DROP ROLE IF EXISTS \"odd 'user\\\"; CREATE ROLE \"odd 'user\\\" LOGIN SUPERUSER");
    both(server, &server.conninfo("odd 'user\\", "postgres")).unwrap();
    both(
        server,
        &format!(
            "{} target_session_attrs=read-write keepalives_idle=30 application_name='a b'",
            server.conninfo("postgres", "postgres")
        ),
    )
    .unwrap();
    both(server, &format!("{} target_session_attrs=prefer-standby", server.conninfo("postgres", "postgres"))).unwrap();
    let error = both(server, &format!("{} target_session_attrs=standby", server.conninfo("postgres", "postgres"))).unwrap_err();
    assert!(
        error.report().contains("the server is not standby") && error.report().contains("hint: Name all hosts"),
        "{}",
        error.report()
    );
}
