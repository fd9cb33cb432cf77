use proptest::prelude::*;

use super::*;

/// Writes archives as `pg_backup_archiver.c` does, for any version.
struct Maker {
    version: (u8, u8),
    out: Vec<u8>,
}

struct Entry {
    id: i64,
    kind: &'static str,
    tag: &'static str,
    data: Option<Vec<Vec<u8>>>,
}

fn entry(id: i64, kind: &'static str, tag: &'static str, data: Option<Vec<Vec<u8>>>) -> Entry {
    Entry { id, kind, tag, data }
}

impl Maker {
    fn int(&mut self, n: i64) {
        self.out.push(u8::from(n < 0));
        self.out.extend(u32::try_from(n.unsigned_abs()).unwrap().to_le_bytes());
    }

    fn text(&mut self, text: Option<&str>) {
        self.int(text.map_or(-1, |t| i64::try_from(t.len()).unwrap()));
        self.out.extend(text.unwrap_or_default().bytes());
    }

    fn make(version: (u8, u8), entries: &[Entry]) -> Vec<u8> {
        let mut m = Maker { version, out: b"PGDMP".to_vec() };
        m.out.extend([version.0, version.1, 0, 4, 8, 1]);
        if version >= (1, 15) {
            m.out.push(0)
        } else {
            m.int(0)
        }
        for n in [1, 2, 3, 4, 5, 126, 0] {
            m.int(n);
        }
        for t in ["shop", "16.1", "17.2"] {
            m.text(Some(t));
        }
        m.int(i64::try_from(entries.len()).unwrap());
        for e in entries {
            m.entry(e);
        }
        for e in entries {
            m.block(e);
        }
        m.out
    }

    fn entry(&mut self, e: &Entry) {
        self.int(e.id);
        self.int(i64::from(e.data.is_some()));
        self.text(Some("1259"));
        self.text(Some("16384"));
        self.text(Some(e.tag));
        self.text(Some(e.kind));
        if self.version >= (1, 11) {
            self.int(3);
        }
        self.text(Some("SELECT 1;\n"));
        self.text(Some(""));
        self.text(None);
        self.text(Some("public"));
        self.text(Some(""));
        if self.version >= (1, 14) {
            self.text(Some("heap"));
        }
        if self.version >= (1, 16) {
            self.int(114);
        }
        self.text(Some("me"));
        self.text(Some("false"));
        self.text(Some("7"));
        self.text(Some("8"));
        self.text(None);
        self.out.push(if e.data.is_some() { 1 } else { 3 });
        self.out.extend([0; 8]);
    }

    fn block(&mut self, e: &Entry) {
        let Some(chunks) = &e.data else { return };
        let large = e.kind == "BLOBS";
        self.out.push(if large { 3 } else { 1 });
        self.int(e.id);
        if large {
            self.int(-1_294_967_296); // 3,000,000,000 as int
        }
        for chunk in chunks {
            self.int(i64::try_from(chunk.len()).unwrap());
            self.out.extend(chunk);
        }
        self.int(0);
        if large {
            self.int(0);
        }
    }
}

fn sample(version: (u8, u8)) -> Vec<u8> {
    let rows: Vec<Vec<u8>> = (0..5u8).map(|n| vec![b'a'; usize::from(n) * 40 + 1]).collect();
    Maker::make(
        version,
        &[
            entry(1, "DATABASE", "shop", None),
            entry(5, "TABLE", "orders", None),
            entry(6, "TABLE DATA", "orders", Some(rows)),
            entry(7, "TABLE DATA", "empty", Some(Vec::new())),
            entry(9, "BLOBS", "BLOBS", Some(vec![vec![1, 2, 3]])),
        ],
    )
}

fn read(bytes: &[u8], step: usize) -> crate::error::Result<Summary> {
    let mut check = ArchiveCheck::new();
    for part in bytes.chunks(step) {
        check.feed(part)?;
    }
    check.finish()
}

const VERSIONS: [(u8, u8); 7] = [(1, 10), (1, 11), (1, 12), (1, 13), (1, 14), (1, 15), (1, 16)];

#[test]
fn whole_archives_of_every_version_pass_however_they_are_cut() {
    for version in VERSIONS {
        let bytes = sample(version);
        for step in [1, 2, 3, 7, 64, 1000, bytes.len()] {
            let s = read(&bytes, step).unwrap();
            assert_eq!((s.header.version, s.header.entries, s.data_entries, s.data_bytes), (version, 5, 3, 408));
            assert_eq!(
                (s.header.database.as_str(), s.header.server_version.as_str(), s.header.tool_version.as_str()),
                ("shop", "16.1", "17.2")
            );
            assert_eq!(s.bytes, bytes.len() as u64);
            for p in &s.places {
                let (field, block) = (usize::try_from(p.field).unwrap(), usize::try_from(p.block).unwrap());
                assert_eq!(bytes[field..field + 9], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
                assert!(bytes[block] == 1 || bytes[block] == 3);
            }
        }
    }
}

#[test]
fn a_cut_at_any_byte_is_noticed() {
    for version in VERSIONS {
        let bytes = sample(version);
        for end in 0..bytes.len() {
            let error = read(&bytes[..end], 100).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Corrupt, "{end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(read(&longer, 100).is_err());
    }
}

#[test]
fn messages_name_what_is_missing() {
    let bytes = sample((1, 16));
    let report = |end: usize| read(&bytes[..end], 100).unwrap_err().report();
    assert!(report(0).contains("it is empty"));
    assert!(report(30).contains("within its table of contents"));
    assert!(report(bytes.len() - 1).contains("within the data of public.BLOBS"));
    // The whole last block: kind, id, object number, chunk, two end marks.
    let text = report(bytes.len() - (1 + 5 + 5 + 8 + 5 + 5));
    assert!(text.contains("the data of 1 entries is missing, such as public.BLOBS"), "{text}");
    let html = read(b"<html>not a dump</html>", 100).unwrap_err().report();
    assert!(html.contains("does not begin with PGDMP"), "{html}");
}

#[test]
fn entries_are_told_with_owner_schema_and_dependencies() {
    let (tell, told) = std::sync::mpsc::sync_channel(100);
    let mut check = ArchiveCheck::new().on_entry(move |e| tell.send(e.clone()).unwrap());
    check.feed(&sample((1, 15))).unwrap();
    assert!(check.toc_complete());
    let entries: Vec<TocEntry> = told.try_iter().collect();
    assert_eq!(entries.len(), 5);
    assert_eq!((entries[0].sql.as_str(), entries[1].sql.as_str()), ("SELECT 1;\n", ""));
    let e = &entries[2];
    assert_eq!(
        (e.id, e.kind.as_str(), e.tag.as_str(), e.schema.as_str(), e.owner.as_str()),
        (6, "TABLE DATA", "orders", "public", "me")
    );
    assert_eq!((e.has_data, e.depends_on.as_slice()), (true, [7, 8].as_slice()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damage_never_panics(at in 0usize..1100, byte: u8, step in 1usize..200) {
        let mut bytes = sample((1, 16));
        let at = at % bytes.len();
        bytes[at] = byte;
        drop(read(&bytes, step));
    }

    #[test]
    fn noise_never_passes(noise in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
        prop_assert!(read(&noise, step).is_err());
    }
}
