//! Trees of files: one that is as awkward as a file system allows, and a comparison that forgives nothing.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{File, FileTimes};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// What [`differences`] looks at. The default is everything.
#[derive(Debug, Clone, Copy)]
pub struct Compare {
    /// Owners and groups.
    pub owners: bool,
    /// Mode bits, setuid and the like included.
    pub modes: bool,
    /// Modification times, to the nanosecond.
    pub times: bool,
    /// Times of directories too.
    pub dir_times: bool,
    /// Extended attributes, ACLs and capabilities.
    pub xattrs: bool,
    /// Which names share an inode.
    pub hardlinks: bool,
    /// A file with large holes must have large holes.
    pub holes: bool,
    /// Mode, owner, times and attributes of the two top directories themselves.
    pub top: bool,
}

impl Default for Compare {
    fn default() -> Self {
        Self { owners: true, modes: true, times: true, dir_times: true, xattrs: true, hardlinks: true, holes: true, top: true }
    }
}

impl Compare {
    /// Names, kinds, contents and link targets only.
    pub fn contents() -> Self {
        Self {
            owners: false,
            modes: false,
            times: false,
            dir_times: false,
            xattrs: false,
            hardlinks: false,
            holes: false,
            top: false,
        }
    }
}

/// One sentence for each difference of two directories, at most a hundred.
pub fn differences(a: &Path, b: &Path, what: Compare) -> Vec<String> {
    let mut out = Vec::new();
    let (list_a, list_b) = (walk(a), walk(b));
    for path in list_a.keys().filter(|p| !list_b.contains_key(*p)) {
        out.push(format!("missing: {}", path.display()));
    }
    for path in list_b.keys().filter(|p| !list_a.contains_key(*p)) {
        out.push(format!("too much: {}", path.display()));
    }
    for (path, a_meta) in &list_a {
        if let Some(b_meta) = list_b.get(path)
            && out.len() < 100
        {
            let top = path.as_os_str().is_empty();
            entry(
                &a.join(path),
                a_meta,
                &b.join(path),
                b_meta,
                if top && !what.top { Compare::contents() } else { what },
                &mut out,
            );
        }
    }
    if what.hardlinks {
        let (groups_a, groups_b) = (groups(&list_a), groups(&list_b));
        if groups_a != groups_b {
            out.push(format!("hard links: {groups_a:?} became {groups_b:?}"));
        }
    }
    out.truncate(100);
    out
}

/// Panics with the differences, if any.
pub fn assert_same(a: &Path, b: &Path, what: Compare) {
    let found = differences(a, b, what);
    assert!(found.is_empty(), "{} and {} differ:\n{}", a.display(), b.display(), found.join("\n"));
}

fn walk(top: &Path) -> BTreeMap<PathBuf, std::fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut stack = vec![PathBuf::new()];
    while let Some(relative) = stack.pop() {
        let full = top.join(&relative);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        if meta.is_dir() {
            stack.extend(std::fs::read_dir(&full).unwrap().map(|e| relative.join(e.unwrap().file_name())));
        }
        found.insert(relative, meta);
    }
    found
}

fn entry(a: &Path, am: &std::fs::Metadata, b: &Path, bm: &std::fs::Metadata, what: Compare, out: &mut Vec<String>) {
    let name = a.display();
    let mut check = |wanted: bool, label: &str, x: String, y: String| {
        if wanted && x != y {
            out.push(format!("{name}: {label} {x} became {y}"));
        }
    };
    check(true, "kind", format!("{:?}", am.file_type()), format!("{:?}", bm.file_type()));
    if am.file_type() != bm.file_type() {
        return;
    }
    let is_link = am.is_symlink();
    check(what.modes && !is_link, "mode", format!("{:o}", am.mode()), format!("{:o}", bm.mode()));
    check(what.owners, "owner", format!("{}:{}", am.uid(), am.gid()), format!("{}:{}", bm.uid(), bm.gid()));
    let times = what.times && (what.dir_times || !am.is_dir());
    check(times, "mtime", format!("{}.{:09}", am.mtime(), am.mtime_nsec()), format!("{}.{:09}", bm.mtime(), bm.mtime_nsec()));
    if what.xattrs {
        check(true, "xattrs", format!("{:?}", xattrs(a)), format!("{:?}", xattrs(b)));
    }
    if is_link {
        let target = |p: &Path| format!("{:?}", std::fs::read_link(p).unwrap());
        check(true, "target", target(a), target(b));
    }
    let special = am.file_type().is_char_device() || am.file_type().is_block_device();
    check(special, "device", format!("{:x}", am.rdev()), format!("{:x}", bm.rdev()));
    if am.is_file() {
        check(true, "size", am.len().to_string(), bm.len().to_string());
        let holes = |m: &std::fs::Metadata| m.blocks() * 512 + (1 << 20) < m.len();
        check(what.holes && holes(am), "holes", "true".into(), holes(bm).to_string());
        if am.len() == bm.len()
            && let Some(at) = first_difference(a, b)
        {
            out.push(format!("{name}: content differs from byte {at} on"));
        }
    }
}

fn first_difference(a: &Path, b: &Path) -> Option<u64> {
    let (mut a, mut b) = (File::open(a).unwrap(), File::open(b).unwrap());
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let n = a.read(&mut x).unwrap();
        if n == 0 {
            return None;
        }
        b.read_exact(&mut y[..n]).unwrap();
        if x[..n] != y[..n] {
            return Some(at + x.iter().zip(&y).position(|(p, q)| p != q).unwrap_or(0) as u64);
        }
        at += n as u64;
    }
}

/// Extended attributes of an entry itself, by name.
pub fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0u8; 65_536];
    let Ok(n) = rustix::fs::llistxattr(path, names.as_mut_slice()) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; 65_536];
        let n = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        found.insert(OsString::from_vec(name.to_vec()), value[..n].to_vec());
    }
    found
}

fn groups(list: &BTreeMap<PathBuf, std::fs::Metadata>) -> Vec<Vec<&PathBuf>> {
    let mut by_inode: HashMap<(u64, u64), Vec<&PathBuf>> = HashMap::new();
    for (path, meta) in list.iter().filter(|(_, m)| m.is_file() && m.nlink() > 1) {
        by_inode.entry((meta.dev(), meta.ino())).or_default().push(path);
    }
    let mut groups: Vec<_> = by_inode.into_values().filter(|g| g.len() > 1).collect();
    groups.sort();
    groups
}

/// Names that break careless programs. All are legal and at most 255 bytes.
pub fn hostile_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "plain",
        " ",
        " leading",
        "trailing ",
        "a\"b",
        "a'b",
        "back\\slash",
        "\\",
        "\"",
        "new\nline",
        "tab\tcr\r",
        "bell\u{7}\u{8}\u{c}\u{b}",
        "\u{7f}",
        "nbsp\u{a0}x",
        "soft\u{ad}hyphen",
        "zero\u{200b}width",
        "ideo\u{3000}",
        "bom\u{feff}",
        "line\u{2028}sep\u{2029}",
        "private\u{e000}",
        "emoji\u{1f980}\u{1f468}\u{200d}\u{1f469}",
        "combining e\u{301}",
        "nfc \u{e9}",
        "\u{10ffff}",
        "<&>",
        "%s%n",
        "$(id)",
        "`id`",
        "-rf",
        "--",
        "~",
        "*",
        "?[a]{b}",
        "...",
        "..x",
        ".hidden",
        "CON",
        "a:b",
        "semi;colon",
        "\u{1}",
        "\u{fffd}",
    ]
    .iter()
    .map(|s| s.as_bytes().to_vec())
    .collect();
    names.extend([
        b"\xff".to_vec(),
        b"bad\xfe\xffutf8".to_vec(),
        b"half\xc3".to_vec(),
        b"over\xc0\xaflong".to_vec(),
        b"surrogate\xed\xa0\x80".to_vec(),
    ]);
    names.push(vec![b'x'; 255]);
    names.push("\u{1f600}".repeat(63).into_bytes());
    names.push(vec![0xff; 255]);
    names
}

/// Bytes that do not compress and differ for each seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Files below a directory, in order; what vanishes meanwhile, or is not there at all, has none.
pub fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(objects(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Sets a time, also one that standard library types do not reach.
pub fn set_time(path: &Path, secs: i64, nanos: u32) {
    let spec = rustix::fs::Timespec { tv_sec: secs, tv_nsec: nanos.into() };
    let times = rustix::fs::Timestamps { last_access: spec, last_modification: spec };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Whether this process may give files away and make devices.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A POSIX ACL as it is stored: the owner, user 1, the group, the mask, others.
pub fn acl() -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permission, id) in [(1u16, 7u16, u32::MAX), (2, 5, 1), (4, 5, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)] {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permission.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// `cap_net_bind_service=ep`, as it is stored.
pub fn capability() -> Vec<u8> {
    let mut value = 0x0200_0001u32.to_le_bytes().to_vec();
    value.extend_from_slice(&(1u32 << 10).to_le_bytes());
    value.extend_from_slice(&[0; 12]);
    value
}

/// Fills `top` with one of everything: see the calls below. As root also owners, devices and capabilities.
pub fn hostile_tree(top: &Path) {
    std::fs::create_dir_all(top).unwrap();
    let root = is_root();
    let write = |path: &Path, data: &[u8]| std::fs::write(path, data).unwrap();
    let mode = |path: &Path, mode: u32| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let xattr = |path: &Path, name: &str, value: &[u8]| rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());

    let names = top.join("names");
    std::fs::create_dir(&names).unwrap();
    for (i, name) in hostile_names().into_iter().enumerate() {
        let path = names.join(OsString::from_vec(name.clone()));
        match i % 3 {
            0 => write(&path, &name),
            1 => {
                std::fs::create_dir(&path).unwrap();
                write(&path.join("inside"), &name);
            }
            _ => symlink(OsString::from_vec(name), &path).unwrap(),
        }
    }

    let sizes = top.join("sizes");
    std::fs::create_dir(&sizes).unwrap();
    for size in [0, 1, 4095, 4096, 65_536, 524_287, 524_288, 524_289, 1 << 20, (3 << 20) + 17] {
        write(&sizes.join(format!("{size}")), &noise(size, size as u64));
    }
    write(&sizes.join("twice"), &noise(1 << 20, 1 << 20));
    write(&sizes.join("zeros"), &vec![0; 2 << 20]);

    let sparse = top.join("sparse");
    std::fs::create_dir(&sparse).unwrap();
    let file = File::create(sparse.join("all-hole")).unwrap();
    file.set_len(16 << 20).unwrap();
    let mut file = File::create(sparse.join("islands")).unwrap();
    for at in [1u64 << 20, 9 << 20] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&noise(100_000, at)).unwrap();
    }
    file.set_len(24 << 20).unwrap();
    let mut file = File::create(sparse.join("ends-with-data")).unwrap();
    file.seek(SeekFrom::Start((8 << 20) - 5)).unwrap();
    file.write_all(b"hello").unwrap();

    let links = top.join("links");
    std::fs::create_dir_all(links.join("deep/er")).unwrap();
    write(&links.join("first"), &noise(700_000, 3));
    std::fs::hard_link(links.join("first"), links.join("deep/er/second")).unwrap();
    std::fs::hard_link(links.join("first"), links.join("a-third")).unwrap();
    write(&links.join("empty"), b"");
    std::fs::hard_link(links.join("empty"), links.join("empty-too")).unwrap();
    symlink("first", links.join("to-first")).unwrap();
    symlink("/nonexistent/absolute", links.join("dangling")).unwrap();
    symlink("../..", links.join("up")).unwrap();
    symlink(OsString::from_vec(b"\xff\xfe".to_vec()), links.join("not-utf8")).unwrap();
    symlink("x".repeat(4000), links.join("long")).unwrap();

    let modes = top.join("modes");
    std::fs::create_dir(&modes).unwrap();
    for bits in [0o0, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1644, 0o7777] {
        let path = modes.join(format!("f{bits:o}"));
        write(&path, b"mode");
        mode(&path, bits);
    }
    for bits in [0o700, 0o555, 0o1777, 0o2775] {
        let path = modes.join(format!("d{bits:o}"));
        std::fs::create_dir(&path).unwrap();
        write(&path.join("inside"), b"x");
        mode(&path, bits);
    }

    let kinds = top.join("kinds");
    std::fs::create_dir_all(kinds.join("empty-dir")).unwrap();
    rustix::fs::mknodat(CWD, kinds.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    if root {
        rustix::fs::mknodat(
            CWD,
            kinds.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        rustix::fs::mknodat(
            CWD,
            kinds.join("loop"),
            FileType::BlockDevice,
            Mode::from_raw_mode(0o660),
            rustix::fs::makedev(7, 200),
        )
        .unwrap();
    }

    let attributes = top.join("attributes");
    std::fs::create_dir(&attributes).unwrap();
    let file = attributes.join("file");
    write(&file, b"attributes");
    xattr(&file, "user.binary", &[0, 1, 2, 255, 10, 0]).unwrap();
    xattr(&file, "user.empty", b"").unwrap();
    xattr(&file, "user.large", &noise(1500, 9)).unwrap();
    xattr(&attributes, "user.dir", b"on a directory").unwrap();
    // Not on every file system.
    xattr(&file, "system.posix_acl_access", &acl()).ok();
    let with_default = attributes.join("default-acl");
    std::fs::create_dir(&with_default).unwrap();
    write(&with_default.join("plain"), b"made before the ACL");
    xattr(&with_default, "system.posix_acl_default", &acl()).ok();
    if root {
        let capable = attributes.join("capable");
        write(&capable, b"#!");
        std::os::unix::fs::chown(&capable, Some(1234), Some(4321)).unwrap();
        mode(&capable, 0o4755);
        xattr(&capable, "security.capability", &capability()).unwrap();
        symlink("x", attributes.join("link")).unwrap();
        xattr(&attributes.join("link"), "trusted.on-a-link", b"yes").ok();

        let owners = top.join("owners");
        std::fs::create_dir(&owners).unwrap();
        for (i, (uid, gid)) in [(0, 0), (1, 2), (65_534, 65_534), (4_000_000_000, 12)].into_iter().enumerate() {
            let path = owners.join(format!("{i}"));
            write(&path, b"owned");
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
            let path = owners.join(format!("link{i}"));
            symlink("target", &path).unwrap();
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).unwrap();
            let path = owners.join(format!("dir{i}"));
            std::fs::create_dir(&path).unwrap();
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    let many = top.join("many");
    std::fs::create_dir(&many).unwrap();
    for i in 0..5000u64 {
        write(&many.join(format!("{i:04}")), &noise((i % 100) as usize, i));
    }
    let mut deep = top.join("deep");
    for level in 0..60 {
        deep.push(format!("level-{level}"));
    }
    std::fs::create_dir_all(&deep).unwrap();
    write(&deep.join("bottom"), b"reached");

    // Times last: everything above changes them.
    let times = top.join("times");
    std::fs::create_dir(&times).unwrap();
    for (name, secs, nanos) in [
        ("epoch", 0, 0),
        ("1970", 1, 1),
        ("1969", -1, 999_999_999),
        ("2001", 1_000_000_000, 123_456_789),
        ("2200", 7_258_118_400, 5),
        ("1902", -2_145_916_800, 0),
    ] {
        let path = times.join(name);
        write(&path, name.as_bytes());
        set_time(&path, secs, nanos);
        let path = times.join(format!("dir-{name}"));
        std::fs::create_dir(&path).unwrap();
        write(&path.join("inside"), b"x");
        set_time(&path, secs, nanos);
        let path = times.join(format!("link-{name}"));
        symlink("x", &path).unwrap();
        set_time(&path, secs, nanos);
    }
    let old = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(86_400 * 365));
    File::open(&times).unwrap().set_times(old).unwrap();
}
