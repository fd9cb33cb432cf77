//! Root's rights for tests that need them: those of this process, or those that anybody has in a user namespace.

use std::process::Command;

/// Which of root's rights a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To mount file systems.
    Mounts,
    /// To give files to other users.
    Owners,
}

/// `true`: this process is root, go on. `false`: the test `name` was run by a process of its own that is root of a user
/// namespace, and passed there, so there is nothing left to do. Fails where neither can be: what was not tested has not
/// passed. `module` is the caller's `module_path!()`.
#[track_caller]
pub fn is_root_or_passed_as_root(module: &str, name: &str, need: Need) -> bool {
    if super::tree::is_root() {
        return true;
    }
    let test = format!("{}::{name}", module.split_once("::").expect("a module of the suite").1);
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount"]);
    if need == Need::Owners {
        // The ranges of /etc/subuid and /etc/subgid.
        unshare.arg("--map-auto");
    }
    unshare.arg(std::env::current_exe().unwrap()).args([&test, "--exact", "--nocapture"]);
    let ran = unshare.output().expect("unshare of util-linux");
    let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let passed = ran.status.success() && text.contains("1 passed");
    assert!(passed, "{test} needs root ({need:?}), and in a user namespace it did not pass: run it as root.\n{text}");
    false
}

/// A file system in memory, mounted at a directory until it is dropped. Needs [`Need::Mounts`].
pub struct Tmpfs<'a>(&'a std::path::Path);

impl<'a> Tmpfs<'a> {
    #[track_caller]
    pub fn mount(at: &'a std::path::Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(at).output().unwrap();
        assert!(mounted.status.success(), "root may not mount here: {}", String::from_utf8_lossy(&mounted.stderr));
        Self(at)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.0).status().unwrap().success());
    }
}
