use proptest::prelude::*;

use super::quote::{go_quote, go_unquote, json_string};
use super::*;
use crate::model::{Id, Metadata, Node, NodeKind, Time, Xattr};

fn json(text: &[u8]) -> String {
    let mut out = Vec::new();
    json_string(text, &mut out);
    String::from_utf8(out).expect("UTF-8")
}

/// Answers of Go 1.26's strconv.Quote (without the outer quotes) and encoding/json.
#[test]
fn quotes_as_go_does() {
    for (raw, quoted) in [
        (&b"a\"b\\c"[..], r#"a\"b\\c"#),
        (b"\x07\x08\x0c\n\r\t\x0b\x00\x1f\x7f", r"\a\b\f\n\r\t\v\x00\x1f\x7f"),
        (b"\xff\xfe-\xc3", r"\xff\xfe-\xc3"),
        (
            "a\u{a0}b\u{ad}\u{200b}\u{3000}\u{feff}\u{e000}\u{10ffff}".as_bytes(),
            r"a\u00a0b\u00ad\u200b\u3000\ufeff\ue000\U0010ffff",
        ),
        ("ä€😀e\u{301}".as_bytes(), "ä€😀e\u{301}"),
        ("\u{fffd}".as_bytes(), "\u{fffd}"),
    ] {
        assert_eq!(String::from_utf8_lossy(&go_quote(raw)), quoted);
        assert_eq!(go_unquote(quoted).as_deref(), Some(raw));
    }
    assert_eq!(json(b"<&>\"\\\x01\x08\x0c\n\r\t\x7f\xff"), "\"\\u003c\\u0026\\u003e\\\"\\\\\\u0001\\b\\f\\n\\r\\t\x7f\\ufffd\"");
    assert_eq!(json("\u{2028}x\u{2029}é".as_bytes()), "\"\\u2028x\\u2029é\"");
    for bad in ["\"", "\n", "\\", "\\'", "\\q", "\\x1", "\\u12", "\\ud800", "\\8", "\\400"] {
        assert_eq!(go_unquote(bad), None, "{bad:?}");
    }
    assert_eq!(go_unquote("\\101\\0007").as_deref(), Some(&b"A\x007"[..]));
}

fn dir_example() -> Vec<Node> {
    let meta = Metadata {
        mode: 0o4755,
        mtime: Time::new(1_700_000_000, 500_000_000),
        atime: Time::new(1_700_000_000, 500_000_000),
        ctime: Time::new(-1, 1),
        uid: 0,
        gid: 7,
        user: "root".into(),
        group: "".into(),
        inode: 12,
        device_id: 3,
        links: 1,
        xattrs: vec![Xattr { name: b"user.x".to_vec(), value: vec![0, 255] }, Xattr { name: b"user.y".to_vec(), value: vec![] }],
    };
    let node = |name: &[u8], kind| Node {
        name: name.to_vec(),
        kind,
        meta: Metadata { mode: 0o755, ..Metadata::default() },
        error: None,
    };
    vec![
        Node {
            name: b"a<\"".to_vec(),
            kind: NodeKind::File { size: 3, content: vec![Id([1; 32])] },
            meta,
            error: Some("torn".into()),
        },
        node(b"b", NodeKind::Dir { subtree: Some(Id([2; 32])) }),
        node(b"c", NodeKind::Symlink { target: b"x\xff".to_vec() }),
        node(b"d", NodeKind::CharDevice { device: 259 }),
        node(b"e", NodeKind::File { size: 0, content: vec![] }),
        node(b"f", NodeKind::Fifo),
    ]
}

#[test]
fn encoding_is_pinned() {
    let text = String::from_utf8(encode_tree(&dir_example()).expect("encodes")).expect("UTF-8");
    let epoch = r#""mtime":"1970-01-01T00:00:00Z","atime":"1970-01-01T00:00:00Z","ctime":"1970-01-01T00:00:00Z","uid":0,"gid":0"#;
    let expected = [
        r#"{"nodes":[{"name":"a\u003c\\\"","type":"file","mode":8389101,"mtime":"2023-11-14T22:13:20.5Z","atime":"2023-11-14T22:13:20.5Z","#,
        r#""ctime":"1969-12-31T23:59:59.000000001Z","uid":0,"gid":7,"user":"root","inode":12,"device_id":3,"size":3,"links":1,"#,
        r#""extended_attributes":[{"name":"user.x","value":"AP8="},{"name":"user.y","value":""}],"#,
        &format!(r#""content":["{}"],"error":"torn"}},"#, "01".repeat(32)),
        &format!(r#"{{"name":"b","type":"dir","mode":2147484141,{epoch},"content":null,"subtree":"{}"}},"#, "02".repeat(32)),
        &format!(r#"{{"name":"c","type":"symlink","mode":134218221,{epoch},"linktarget":"x\ufffd","linktarget_raw":"eP8=","content":null}},"#),
        &format!(r#"{{"name":"d","type":"chardev","mode":69206509,{epoch},"device":259,"content":null}},"#),
        &format!(r#"{{"name":"e","type":"file","mode":493,{epoch},"content":[]}},"#),
        &format!(r#"{{"name":"f","type":"fifo","mode":33554925,{epoch},"content":null}}]}}"#),
    ]
    .concat();
    assert_eq!(text, expected + "\n");
    assert_eq!(encode_tree(&[]).expect("encodes"), b"{\"nodes\":[]}\n");
}

#[test]
fn decoding_gives_back_what_was_encoded() {
    let nodes = dir_example();
    assert_eq!(decode_tree(&encode_tree(&nodes).expect("encodes")).expect("decodes"), nodes);
}

#[test]
fn trees_of_others_are_read() {
    // rustic: offsets instead of Z, another order of fields, unknown fields, absent content.
    let text = r#"{"nodes":[{"name":"x\\n","type":"symlink","linktarget":"t","device":0,"mtime":"2026-01-01T01:00:00.123456789+01:00","uid":1,"gid":1,"generic_attributes":{"a":1},"new":null}],"later":1}"#;
    let nodes = decode_tree(text.as_bytes()).expect("decodes");
    assert_eq!(nodes[0].name, b"x\n");
    assert_eq!(nodes[0].meta.mtime, "2026-01-01T00:00:00.123456789Z".parse().expect("time"));
}

#[test]
fn a_visit_ends_with_the_first_failure() {
    let text =
        r#"{"nodes":[{"name":"a","type":"fifo","user":null},{"name":"b","type":"fifo"},{"name":"c","type":"file","size":3}]}"#;
    let mut seen = Vec::new();
    let failed = visit_tree(text.as_bytes(), &mut |n| {
        seen.push(n.name);
        Ok(())
    });
    assert_eq!(failed.expect_err("a file without content").to_string(), "file `c` has no content");
    assert_eq!(seen, [b"a", b"b"]);
    let stopped = visit_tree(text.as_bytes(), &mut |_| Err(crate::error::Error::new(crate::error::Kind::Cancelled, "stop")));
    assert_eq!(stopped.expect_err("stopped").kind(), crate::error::Kind::Cancelled);
    assert!(decode_tree(b"{\"nodes\":null}").expect("empty").is_empty());
    for bad in ["", "{}", "[]", r#"{"nodes":[]} x"#, r#"{"nodes":[{"name":"a","type":"dir"}]}"#] {
        assert!(decode_tree(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused_both_ways() {
    for name in ["", ".", "..", "a/b", "/", "..\\x2fx", "a\\x00"] {
        let text = serde_json::json!({"nodes": [{"name": name, "type": "fifo"}]}).to_string();
        assert!(decode_tree(text.as_bytes()).is_err(), "{name}");
    }
    let node = |name: &[u8]| Node { name: name.to_vec(), kind: NodeKind::Fifo, meta: Metadata::default(), error: None };
    for bad in [vec![node(b"..")], vec![node(b"a/b")], vec![node(b"b"), node(b"a")], vec![node(b"a"), node(b"a")]] {
        assert!(encode_tree(&bad).is_err());
    }
}

#[test]
fn times_beyond_go_are_clamped_so_that_stock_clients_can_read_the_tree() {
    let meta = Metadata { mtime: Time::new(i64::MAX / 2, 0), ctime: Time::new(i64::MIN / 2, 0), ..Metadata::default() };
    let node = Node { name: b"a".to_vec(), kind: NodeKind::Fifo, meta, error: None };
    let back = decode_tree(&encode_tree(&[node]).expect("encodes")).expect("decodes");
    assert_eq!(back[0].meta.mtime.to_string(), "9999-12-31T23:59:59.999999999Z");
    assert_eq!(back[0].meta.ctime.to_string(), "0000-01-01T00:00:00Z");
}

proptest! {
    #[test]
    fn any_name_and_target_round_trips(mut name in proptest::collection::vec(any::<u8>(), 1..80), target in proptest::collection::vec(1u8.., 1..80)) {
        name.retain(|b| *b != b'/' && *b != 0);
        prop_assume!(!name.is_empty() && name != b"." && name != b"..");
        let node = Node { name, kind: NodeKind::Symlink { target }, meta: Metadata::default(), error: None };
        let back = decode_tree(&encode_tree(std::slice::from_ref(&node)).map_err(|e| TestCaseError::fail(e.report()))?).map_err(|e| TestCaseError::fail(e.report()))?;
        prop_assert_eq!(back, vec![node]);
    }

    #[test]
    fn damaged_trees_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(decode_tree(&bytes));
    }
}
