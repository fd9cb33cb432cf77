//! Names, texts and times are written as Go writes them, to the byte: restic is a Go program, and a tree's id is a digest.
//!
//! `golden/go.txt` holds answers of Go 1.26 (Unicode 15.0.0), made from random bytes: `text <hex> <json.Marshal>`,
//! `name <hex> <json.Marshal of strconv.Quote without the outer quotes>`, `time <seconds>.<nanoseconds> <json.Marshal>`.

use strongroom::repository::{decode_tree, encode_tree};

use super::*;

fn encoded(name: &[u8], target: &[u8], time: Time) -> String {
    let kind = NodeKind::Symlink { target: target.to_vec() };
    let node = Node { name: name.to_vec(), kind, meta: Metadata { mtime: time, ..Metadata::default() }, error: None };
    let bytes = encode_tree(std::slice::from_ref(&node)).unwrap();
    assert_eq!(decode_tree(&bytes).unwrap(), [node]);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn as_go_writes_them() {
    let golden = include_str!("golden/go.txt");
    // For thousands more: a file made the same way, by its path.
    let golden =
        std::env::var_os("STRONGROOM_GO_GOLDEN").map_or(golden.to_owned(), |path| std::fs::read_to_string(path).unwrap());
    let mut lines = 0;
    for line in golden.split('\n').filter(|l| !l.is_empty()) {
        let (kind, rest) = line.split_once(' ').unwrap();
        let (input, json) = rest.split_once(' ').unwrap();
        let (text, expected) = match kind {
            "name" => {
                (encoded(&hex::decode(input).unwrap(), b"t", Time::default()), format!("{{\"nodes\":[{{\"name\":{json},\"type\""))
            }
            "text" => (encoded(b"n", &hex::decode(input).unwrap(), Time::default()), format!(",\"linktarget\":{json},\"")),
            _ => {
                let (secs, nanos) = input.split_once('.').unwrap();
                let time = Time::new(secs.parse().unwrap(), nanos.parse().unwrap());
                (encoded(b"n", b"t", time), format!("\"mtime\":{json},\"atime\""))
            }
        };
        assert!(text.contains(&expected), "{line}\n{text}");
        lines += 1;
    }
    assert!(lines > 400);
}
