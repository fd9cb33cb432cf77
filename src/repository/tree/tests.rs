use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{Id, Metadata, Node, NodeKind, Time, Xattr};

fn node(name: &[u8], kind: NodeKind) -> Node {
    Node { name: name.to_vec(), kind, meta: Metadata::default(), error: None }
}

fn text(nodes: &[Node]) -> String {
    String::from_utf8(encode_tree(nodes).expect("encodes")).expect("UTF-8")
}

#[test]
fn empty_directory() {
    assert_eq!(text(&[]), "{\"nodes\":[]}\n");
    assert!(decode_tree(b"{\"nodes\":[]}\n").expect("reads").is_empty());
    assert!(decode_tree(b"{\"nodes\":null}").expect("reads").is_empty());
}

#[test]
fn every_field_in_its_place() {
    let mut file = node(br#"a"b\c"#, NodeKind::File { size: 5, content: vec![Id([0x1f; 32])] });
    file.meta = Metadata {
        mode: 0o4644,
        mtime: Time::new(1, 500_000_000),
        atime: Time::new(1, 500_000_000),
        ctime: Time::new(7_258_118_400, 0),
        uid: 7,
        gid: 8,
        user: Arc::from("u<"),
        group: Arc::from("g"),
        inode: u64::MAX,
        device_id: 9,
        links: 2,
        xattrs: vec![Xattr { name: b"user.x".to_vec(), value: vec![0, 1, 2] }, Xattr { name: b"user.y".to_vec(), value: Vec::new() }],
    };
    file.error = Some("e".to_owned());
    let dir = node(b"b", NodeKind::Dir { subtree: Some(Id([0xab; 32])) });
    let link = node(b"c", NodeKind::Symlink { target: b"/t\xff&\xe2\x80\xa8".to_vec() });
    let dev = node(b"d", NodeKind::CharDevice { device: 1281 });
    let nodes = [file, dir, link, dev];
    let zero = r#""mtime":"1970-01-01T00:00:00Z","atime":"1970-01-01T00:00:00Z","ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0"#;
    let expected = [
        r#"{"nodes":[{"name":"a\\\"b\\\\c","type":"file","mode":8389028,"mtime":"1970-01-01T00:00:01.5Z","atime":"1970-01-01T00:00:01.5Z","#,
        r#""ctime":"2200-01-01T00:00:00Z","uid":7,"gid":8,"user":"u\u003c","group":"g","inode":18446744073709551615,"device_id":9,"size":5,"links":2,"#,
        r#""extended_attributes":[{"name":"user.x","value":"AAEC"},{"name":"user.y","value":""}],"#,
        &format!(r#""content":["{}"],"error":"e"}},"#, "1f".repeat(32)),
        &format!(r#"{{"name":"b","type":"dir","mode":2147483648,{zero},"content":null,"subtree":"{}"}},"#, "ab".repeat(32)),
        &format!(r#"{{"name":"c","type":"symlink","mode":134217728,{zero},"linktarget":"/t\ufffd\u0026\u2028","linktarget_raw":"L3T/JuKAqA==","content":null}},"#),
        &format!(r#"{{"name":"d","type":"chardev","mode":69206016,{zero},"device":1281,"content":null}}]}}"#),
    ];
    assert_eq!(text(&nodes), expected.concat() + "\n");
    assert_eq!(decode_tree(text(&nodes).as_bytes()).expect("reads"), nodes);
}

#[test]
fn years_that_json_times_cannot_hold_are_moved() {
    let mut far = node(b"f", NodeKind::Fifo);
    far.meta.mtime = Time::new(253_402_300_800, 0);
    far.meta.ctime = Time::new(-62_167_219_201, 1);
    let text = text(&[far]);
    assert!(text.contains(r#""mtime":"9999-01-01T00:00:00Z""#) && text.contains(r#""ctime":"0000-12-31T23:59:59.000000001Z""#), "{text}");
}

/// The same entries as stock programs write them: rustic's field order, offsets and raw characters.
#[test]
fn reads_other_forms() {
    let tree = concat!(
        r#"{"nodes":[{"name":"l\u00a0","type":"symlink","linktarget":"<t>","mode":134218239,"mtime":"2026-11-21T04:00:00.25+02:00","#,
        r#""atime":null,"uid":0,"gid":0,"user":null,"inode":5,"links":1,"content":null,"new_field":{"a":[1,2]}},"#,
        r#"{"name":"a","type":"file","size":0},{"name":"w","type":"unknown","generic_attributes":{"windows.x":1}}],"more":1}"#
    );
    let decoded = decode(tree.as_bytes()).expect("reads");
    assert!(!decoded.ordered);
    let nodes = decode_tree(tree.as_bytes()).expect("reads");
    assert_eq!(nodes[0].kind, NodeKind::File { size: 0, content: Vec::new() });
    assert_eq!((nodes[1].name.as_slice(), nodes[1].meta.mode), ("l\u{a0}".as_bytes(), 0o777));
    assert_eq!(nodes[1].kind, NodeKind::Symlink { target: b"<t>".to_vec() });
    assert_eq!(nodes[1].meta.mtime, Time::new(1_795_226_400, 250_000_000));
    assert_eq!(nodes[2].kind, NodeKind::Irregular);
}

#[test]
fn refuses_what_is_no_tree() {
    let file = |name: &str| format!(r#"{{"nodes":[{{"name":"{name}","type":"file","content":[]}}]}}"#);
    assert!(decode_tree(file("ok").as_bytes()).is_ok());
    for name in ["", ".", "..", "a/b", r"a\\x00", r"\\q", r#"\""#] {
        assert!(decode_tree(file(name).as_bytes()).is_err(), "{name}");
    }
    for bad in ["", "{}", "[]", r#"{"nodes":[{"name":"a","type":"file","size":3}]}"#, r#"{"nodes":[]} x"#, r#"{"nodes":[{"name":"a","type":"dir","subtree":"12"}]}"#] {
        assert!(decode_tree(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn refuses_to_write_disorder_and_impossible_names() {
    let [a, b] = [node(b"a", NodeKind::Fifo), node(b"b", NodeKind::Fifo)];
    assert!(encode_tree(&[b.clone(), a.clone()]).is_err());
    assert!(encode_tree(&[a.clone(), a]).is_err());
    assert!(encode_tree(&[node(b"a/b", NodeKind::Fifo)]).is_err());
    assert!(encode_tree(&[node(b"..", NodeKind::Fifo)]).is_err());
    // Raw bytes decide, not quoted text: `\n` (0x0a) is before `!`, although its quoted form `\\n` is after.
    assert!(encode_tree(&[node(b"\n", NodeKind::Fifo), node(b"!", NodeKind::Fifo), b]).is_ok());
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("not in names", |b| !matches!(b, 0 | b'/'));
    prop_oneof![proptest::collection::vec(byte, 1..40), "[^\u{0}/]{1,20}".prop_map(String::into_bytes)].prop_filter("dots", |n| is_file_name(n))
}

fn any_kind() -> impl Strategy<Value = NodeKind> {
    let id = any::<[u8; 32]>().prop_map(Id);
    prop_oneof![
        (any::<u64>(), proptest::collection::vec(id.clone(), 0..4)).prop_map(|(size, content)| NodeKind::File { size, content }),
        id.prop_map(|id| NodeKind::Dir { subtree: Some(id) }),
        proptest::collection::vec(any::<u8>(), 0..30).prop_map(|target| NodeKind::Symlink { target }),
        any::<u64>().prop_map(|device| NodeKind::Device { device }),
        any::<u64>().prop_map(|device| NodeKind::CharDevice { device }),
        Just(NodeKind::Fifo),
    ]
}

fn any_node() -> impl Strategy<Value = Node> {
    let time = || (-62_167_219_200i64..253_402_300_799, 0u32..1_000_000_000).prop_map(|(s, n)| Time::new(s, n));
    let xattr = (".{1,10}", proptest::collection::vec(any::<u8>(), 0..9)).prop_map(|(name, value)| Xattr { name: name.into_bytes(), value });
    let numbers = (0u32..0o10000, any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>());
    let texts = (".{0,6}", ".{0,6}", proptest::option::of(".{1,9}"), proptest::collection::vec(xattr, 0..3));
    (any_name(), any_kind(), time(), time(), time(), numbers, texts).prop_map(|(name, kind, mtime, atime, ctime, n, (user, group, error, xattrs))| {
        let (mode, uid, gid, inode, device_id, links) = n;
        let meta = Metadata { mode, mtime, atime, ctime, uid, gid, user: user.into(), group: group.into(), inode, device_id, links, xattrs };
        Node { name, kind, meta, error }
    })
}

proptest! {
    #[test]
    fn any_tree_round_trips(mut nodes in proptest::collection::vec(any_node(), 0..6)) {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|a, b| a.name == b.name);
        let bytes = encode_tree(&nodes).expect("encodes");
        let decoded = decode(&bytes).expect("decodes");
        prop_assert!(decoded.ordered);
        prop_assert_eq!(decoded.nodes, nodes);
    }
}
