//! Trees and targets made to lead a restore astray.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use strongroom::model::{Id, Metadata, Node, NodeKind};
use strongroom::restore::directory::{Options, Progress, Root};

use super::memory::{Memory, restore, restore_whole};

fn node(name: &[u8], kind: NodeKind) -> Node {
    let meta = Metadata {
        mode: 0o644,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..Metadata::default()
    };
    Node { name: name.to_vec(), kind, meta, error: None }
}

fn file(memory: &Memory, name: &[u8], content: &[u8]) -> Node {
    node(name, NodeKind::File { size: content.len() as u64, content: memory.add(content) })
}

fn dir(memory: &Memory, name: &[u8], nodes: Vec<Node>) -> Node {
    let subtree: Id = memory.add_tree(nodes);
    let mut node = node(name, NodeKind::Dir { subtree: Some(subtree) });
    node.meta.mode = 0o755;
    node
}

fn root(memory: &Memory, nodes: Vec<Node>) -> Root {
    Root { tree: memory.add_tree(nodes), meta: None }
}

/// A place with a target in it, and a look at everything around the target.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(place.0.path().join("outside")).unwrap();
        std::fs::write(place.0.path().join("outside/precious"), "precious").unwrap();
        std::fs::create_dir_all(place.target()).unwrap();
        place
    }

    fn target(&self) -> std::path::PathBuf {
        self.0.path().join("target")
    }

    fn outside(&self) -> std::path::PathBuf {
        self.0.path().join("outside")
    }

    fn assert_untouched(&self) {
        let names = |p: &Path| {
            let mut n: Vec<_> = std::fs::read_dir(p).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            n.sort();
            n
        };
        assert_eq!(names(self.0.path()), ["outside", "target"]);
        assert_eq!(names(&self.outside()), ["precious"]);
        assert_eq!(std::fs::read(self.outside().join("precious")).unwrap(), b"precious");
        assert!(!Path::new("/strongroom-escaped").exists());
    }
}

#[test]
fn names_that_are_paths_are_refused() {
    let (memory, place) = (Memory::new(), Place::new());
    let mut nodes = Vec::new();
    for name in [&b".."[..], b".", b"", b"../escaped", b"/strongroom-escaped", b"a/b", b"nul\0x", b"a/../../escaped"] {
        nodes.push(file(&memory, name, b"evil"));
        nodes.push(dir(&memory, name, vec![file(&memory, b"escaped", b"evil")]));
        nodes.push(node(name, NodeKind::Symlink { target: b"/etc".to_vec() }));
    }
    nodes.push(file(&memory, b"good", b"good"));
    let report = restore(
        &memory,
        &root(&memory, nodes),
        &place.target(),
        &Options { delete: true, ..Options::default() },
        &Progress::default(),
    );
    assert_eq!(report.problem_count, 24, "{:?}", report.problems);
    assert_eq!(std::fs::read(place.target().join("good")).unwrap(), b"good");
    place.assert_untouched();
}

/// A link and then a directory, a file or a link of the same name: what comes second must not go through the first.
#[test]
fn a_tree_cannot_plant_a_link_and_walk_through_it() {
    for fresh in [true, false] {
        let (memory, place) = (Memory::new(), Place::new());
        let link = |name: &[u8]| node(name, NodeKind::Symlink { target: place.outside().into_os_string().into_encoded_bytes() });
        let to_file =
            node(b"f", NodeKind::Symlink { target: place.outside().join("precious").into_os_string().into_encoded_bytes() });
        let inside = vec![
            link(b"d"),
            dir(&memory, b"d", vec![file(&memory, b"planted", b"evil"), file(&memory, b"precious", b"evil")]),
            to_file,
            file(&memory, b"f", b"evil"),
            link(b"x"),
            link(b"x"),
            dir(&memory, b"y", vec![file(&memory, b"planted", b"evil")]),
            link(b"y"),
        ];
        let tree = root(&memory, vec![dir(&memory, b"sub", inside)]);
        if !fresh {
            std::fs::create_dir_all(place.target().join("sub")).unwrap();
        }
        let report =
            restore(&memory, &tree, &place.target(), &Options { delete: true, ..Options::default() }, &Progress::default());
        assert!(report.problem_count > 0);
        place.assert_untouched();
    }
}

#[test]
fn links_in_an_existing_target_are_not_followed() {
    let (memory, place) = (Memory::new(), Place::new());
    let target = place.target();
    symlink(place.outside(), target.join("d")).unwrap();
    symlink(place.outside().join("precious"), target.join("f")).unwrap();
    symlink(place.outside(), target.join("extra")).unwrap();
    symlink(place.outside().join("new"), target.join("empty")).unwrap();
    std::fs::hard_link(place.outside().join("precious"), target.join("hard")).unwrap();
    let nodes = vec![
        dir(&memory, b"d", vec![file(&memory, b"planted", b"evil"), file(&memory, b"precious", b"evil")]),
        file(&memory, b"empty", b""),
        file(&memory, b"f", b"evil"),
        file(&memory, b"hard", b"evil"),
    ];
    let before = std::fs::metadata(place.outside().join("precious")).unwrap();
    restore_whole(&memory, &root(&memory, nodes), &target, &Options { delete: true, verify: true, ..Options::default() });
    place.assert_untouched();
    let after = std::fs::metadata(place.outside().join("precious")).unwrap();
    assert_eq!((before.mode(), before.mtime(), before.uid()), (after.mode(), after.mtime(), after.uid()));
    assert_eq!(std::fs::read(target.join("f")).unwrap(), b"evil");
    assert_eq!(std::fs::read(target.join("hard")).unwrap(), b"evil");
    assert!(target.join("d").symlink_metadata().unwrap().is_dir());
    assert!(target.join("extra").symlink_metadata().is_err());
}

/// The target itself may be a link: the user named it.
#[test]
fn the_target_itself_may_be_a_link() {
    let (memory, place) = (Memory::new(), Place::new());
    symlink("target", place.0.path().join("named")).unwrap();
    restore_whole(&memory, &root(&memory, vec![file(&memory, b"x", b"x")]), &place.0.path().join("named"), &Options::default());
    assert!(place.target().join("x").exists());
}

/// Directories become links to the outside while files are being written into them.
#[test]
fn links_that_appear_meanwhile_are_not_followed() {
    let (memory, place) = (Memory::new(), Place::new());
    let dirs: Vec<Node> = (0..40)
        .map(|d| {
            let files = (0..30).map(|f| file(&memory, format!("{f}").as_bytes(), format!("{d} {f}").as_bytes())).collect();
            dir(&memory, format!("d{d}").as_bytes(), files)
        })
        .collect();
    let tree = root(&memory, dirs);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for d in 0..40 {
                    let path = place.target().join(format!("d{d}"));
                    let away = place.target().join("away");
                    if std::fs::rename(&path, &away).is_ok() {
                        symlink(place.outside(), &path).ok();
                        std::fs::remove_dir_all(&away).ok();
                    }
                }
            }
        });
        for _ in 0..5 {
            // Whatever it manages; problems are expected.
            let _ =
                restore(&memory, &tree, &place.target(), &Options { delete: true, ..Options::default() }, &Progress::default());
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    place.assert_untouched();
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let (memory, place) = (Memory::new(), Place::new());
    let mut huge = file(&memory, b"huge", b"small");
    let mut hollow = file(&memory, b"hollow", b"");
    let mut cut = file(&memory, b"cut", &[7; 1_000_000]);
    for (node, wrong) in [(&mut huge, u64::MAX), (&mut hollow, 1 << 50), (&mut cut, 10)] {
        if let NodeKind::File { size, .. } = &mut node.kind {
            *size = wrong;
        }
    }
    let report =
        restore(&memory, &root(&memory, vec![cut, hollow, huge]), &place.target(), &Options::default(), &Progress::default());
    assert_eq!(report.problem_count, 3, "{:?}", report.problems);
    assert_eq!(std::fs::read_dir(place.target()).unwrap().count(), 0);
}
