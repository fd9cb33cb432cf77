//! The client is a package of its own, so it is built on first use.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The built program.
pub fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            // A folder of its own: the one of this run may be in use.
            let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("client");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--locked", "-p", "strongroom-client", "--target-dir"]).arg(&target);
            let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
            assert!(output.status.success(), "build the client: {}", String::from_utf8_lossy(&output.stderr));
            target.join("debug/strongroom-client")
        })
        .clone()
}
