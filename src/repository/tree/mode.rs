//! Modes: trees carry Go's `os.FileMode`, nodes the low 12 bits of `st_mode`.

use crate::model::NodeKind;

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;

/// Go's bit for each of the three special Unix ones.
const SPECIAL: [(u32, u32); 3] = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];

/// `os.FileMode` of an entry.
pub(super) fn to_go(kind: &NodeKind, mode: u32) -> u32 {
    let file_type = match kind {
        NodeKind::File { .. } => 0,
        NodeKind::Dir { .. } => DIR,
        NodeKind::Symlink { .. } => SYMLINK,
        NodeKind::Device { .. } => DEVICE,
        NodeKind::CharDevice { .. } => DEVICE | CHAR_DEVICE,
        NodeKind::Fifo => FIFO,
        NodeKind::Socket => SOCKET,
        NodeKind::Irregular => IRREGULAR,
    };
    SPECIAL.iter().filter(|(unix, _)| mode & unix != 0).fold(file_type | (mode & 0o777), |m, (_, go)| m | go)
}

/// Permissions, setuid, setgid and sticky of an `os.FileMode`. Its file type is left out: `type` tells that.
pub(super) fn from_go(mode: u32) -> u32 {
    SPECIAL.iter().filter(|(_, go)| mode & go != 0).fold(mode & 0o777, |m, (unix, _)| m | unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_as_restic_does() {
        assert_eq!(to_go(&NodeKind::Dir { subtree: None }, 0o755), 2_147_484_141);
        assert_eq!(to_go(&NodeKind::File { size: 0, content: Vec::new() }, 0o644), 420);
        assert_eq!(to_go(&NodeKind::CharDevice { device: 1 }, 0o666), (1 << 26) | (1 << 21) | 0o666);
        for mode in 0..0o10000 {
            assert_eq!(from_go(to_go(&NodeKind::Fifo, mode)), mode);
        }
    }
}
