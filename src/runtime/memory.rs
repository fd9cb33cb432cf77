//! How much memory the process may use: the configured budget, or less where its control group allows less. And memory that
//! begins where the hardware wants it.

use std::path::Path;

/// The default budget in bytes: 256 MiB.
pub const DEFAULT_BUDGET: u64 = 256 << 20;
/// The least that the engine works with in bytes: 96 MiB. A smaller budget is raised to it.
pub const LEAST_BUDGET: u64 = 96 << 20;

/// What direct input and output wants memory, lengths and positions in files to be multiples of, in bytes: enough for every disk.
pub const PAGE: usize = 4096;

/// Fills empty `memory` up to an address that is a multiple of [`PAGE`]: what is appended begins there, as long as the memory
/// need not grow. Memory that has no room for that stays empty.
#[must_use]
pub fn page_aligned(mut memory: Vec<u8>) -> Vec<u8> {
    memory.clear();
    let start = memory.as_ptr().align_offset(PAGE);
    if start < memory.capacity() {
        memory.resize(start, 0);
    }
    memory
}

/// The smaller of `configured` and what the control group of this process allows, less an eighth for what is not
/// counted (stacks, the allocator's own needs). Never below [`LEAST_BUDGET`].
#[must_use]
pub fn budget(configured: u64) -> u64 {
    let allowed = cgroup_limit().map_or(u64::MAX, |limit| limit - limit / 8);
    configured.min(allowed).max(LEAST_BUDGET)
}

/// The memory limit of this process's control group in bytes, v2 or v1. `None`: no limit, or none to be read.
fn cgroup_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    own.lines().filter_map(|line| limit_of(line, Path::new("/sys/fs/cgroup"))).min()
}

/// One line of `/proc/self/cgroup`: `0::/path` (v2) or `n:controllers:/path` (v1). In a container the path may be that
/// of the host and not exist; the root then is the container's own group.
fn limit_of(line: &str, mount: &Path) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, file) = match controllers {
        "" => (mount.to_path_buf(), "memory.max"),
        c if c.split(',').any(|c| c == "memory") => (mount.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let mut group = root.join(path.trim_start_matches('/'));
    if !group.join(file).exists() {
        group.clone_from(&root);
    }
    let mut least = None;
    // A group is also bound by those above it.
    while group.starts_with(&root) {
        let limit = std::fs::read_to_string(group.join(file)).ok().and_then(|t| t.trim().parse::<u64>().ok());
        // v1 says "no limit" with a number near 2^63.
        if let Some(limit) = limit.filter(|l| *l < 1 << 60) {
            least = Some(least.map_or(limit, |l: u64| l.min(limit)));
        }
        if !group.pop() {
            break;
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let mount = tempfile::tempdir().expect("a directory");
        let group = mount.path().join("a/b");
        std::fs::create_dir_all(&group).expect("directories");
        std::fs::write(group.join("memory.max"), "max\n").expect("a file");
        assert_eq!(limit_of("0::/a/b", mount.path()), None);
        std::fs::write(mount.path().join("a/memory.max"), "134217728\n").expect("a file");
        assert_eq!(limit_of("0::/a/b", mount.path()), Some(128 << 20));
        assert_eq!(limit_of("5:cpu,cpuacct:/a/b", mount.path()), None);
        std::fs::create_dir_all(mount.path().join("memory")).expect("directories");
        std::fs::write(mount.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").expect("a file");
        assert_eq!(limit_of("9:memory:/not/here", mount.path()), None);
        std::fs::write(mount.path().join("memory/memory.limit_in_bytes"), "1000\n").expect("a file");
        assert_eq!(limit_of("9:memory:/not/here", mount.path()), Some(1000));
    }
}
