//! Drills with the real program: they prove what they say, fail when they must, and leave nothing behind.

mod base;
mod dump;
mod files;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{Ran, command, run};

/// A directory with a configuration, a repository and a scratch directory that others may reach.
pub struct World {
    pub dir: tempfile::TempDir,
}

impl World {
    /// `jobs` are those of tenant acme; `DIR` is this world's directory.
    pub fn new(jobs: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(dir.path().join("scratch")).unwrap();
        let world = Self { dir };
        world.configure(jobs);
        world.run(&["init"]).ok();
        world
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("strongroom.yaml")
    }

    pub fn configure(&self, jobs: &str) {
        let jobs: String = jobs.lines().map(|l| format!("      {l}\n")).collect();
        let text = format!(
            "environment: test\nrepository:\n  url: file://DIR/store\n  password: {{ value: secret }}\ntenants:\n  acme:\n    jobs:\n{jobs}"
        );
        std::fs::write(self.config(), text.replace("DIR", self.path().to_str().unwrap())).unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        run(self.path(), &[&["--allow-commands", "--json", "--config", "strongroom.yaml"], args].concat())
    }

    /// The same, not waited for.
    pub fn start(&self, args: &[&str]) -> std::process::Child {
        let args = [&["--allow-commands", "--json", "--config", "strongroom.yaml"], args].concat();
        command(self.path(), &args).stdout(std::process::Stdio::null()).spawn().unwrap()
    }

    /// What is in the scratch directory.
    pub fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path().join("scratch")).unwrap().map(|e| e.unwrap().path()).collect()
    }

    pub fn reports(&self, job: &str) -> usize {
        let dir = self.path().join("store/test/acme/strongroom/reports").join(job);
        std::fs::read_dir(dir).map_or(0, Iterator::count)
    }

    /// The drill's part of the status of a job.
    pub fn drill_status(&self, job: &str) -> Value {
        let status = self.run(&["status", &format!("acme/{job}")]).ok().json();
        status["jobs"][0]["drill"].clone()
    }
}

/// Waits for something that has to happen.
#[track_caller]
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
pub fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no check {name} in {report:#}"))
}
