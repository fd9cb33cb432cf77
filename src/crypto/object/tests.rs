use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn seal(n: u8) -> ObjectSeal {
    let master = MasterKey { encrypt: [n; 32], mac_k: [2; 16], mac_r: [3; 16] };
    ObjectSeal::new(&master, Id([n; 32])).unwrap()
}

fn content(length: usize, seed: u8) -> Vec<u8> {
    // Half of it compresses.
    (0..length).map(|i| if i % 4096 < 2048 { seed } else { ((i as u64 * 0x9E37_79B9) >> 7) as u8 ^ seed }).collect()
}

fn make(seal: &ObjectSeal, name: &str, plain: &[u8], codec: Codec) -> Vec<u8> {
    let mut encoder = seal.encoder(name, codec).unwrap();
    let frames: Vec<u8> = plain.chunks(FRAME).flat_map(|c| encoder.frame(c).unwrap()).collect();
    let end = encoder.finish(0).unwrap();
    assert_eq!(end.content, Content::of(plain));
    [&end.header[..], &frames, &end.last].concat()
}

fn codecs() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::None), (1..=4i32).prop_map(Codec::Zstd), Just(Codec::Gzip(1)), Just(Codec::Lz4)]
}

/// The frames of an object without its header: where each begins and ends.
fn frames(object: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut found) = (HEADER, Vec::new());
    while at < object.len() {
        let length = u32::from_le_bytes(object[at + 4..at + 8].try_into().unwrap()) & !LAST;
        found.push(at..at + 8 + length as usize);
        at = found.last().unwrap().end;
    }
    found
}

#[test]
fn codecs_have_names() {
    for name in ["none", "zstd-1", "zstd-19", "gzip-6", "lz4"] {
        assert_eq!(name.parse::<Codec>().unwrap().to_string(), name);
    }
    assert_eq!("zstd".parse::<Codec>().unwrap(), Codec::default());
    for bad in ["", "zstd-0", "zstd-20", "gzip-10", "lz4-1", "none-1", "snappy", "zstd-"] {
        assert!(bad.parse::<Codec>().is_err(), "{bad}");
    }
}

/// What is stored today must be readable for ever: made once by this code, with the keys of [`seal`].
#[test]
fn an_old_object_is_still_read() {
    let object = hex::decode(GOLDEN.replace(['\n', ' '], "")).unwrap();
    assert_eq!(seal(1).open("wal/main/golden", &object).unwrap(), b"Nothing is visible until it is whole.".repeat(3));
}

const GOLDEN: &str = include_str!("golden.hex");

#[test]
fn large_objects_lie_in_parts() {
    let (seal, plain) = (seal(1), content(5 * FRAME / 2, 9));
    let mut encoder = seal.encoder("x", Codec::default()).unwrap();
    let parts: Vec<Bytes> = plain.chunks(FRAME).map(|c| encoder.frame(c).unwrap()).collect();
    let salt = encoder.salt();
    let end = encoder.finish(2).unwrap();
    let read = |order: &[usize]| {
        let mut decoder = seal.decoder("x", &end.header)?;
        assert_eq!((decoder.parts(), decoder.salt()), (2, salt.clone()));
        let mut out = Vec::new();
        for i in order {
            decoder.frames(&parts[*i], &mut out)?;
        }
        decoder.frames(&end.last, &mut out)?;
        decoder.finish().map(|_| out)
    };
    assert_eq!(read(&[0, 1, 2]).unwrap(), plain);
    for wrong in [&[0, 1][..], &[1, 0, 2], &[0, 1, 1, 2], &[0, 2], &[]] {
        assert_eq!(read(wrong).unwrap_err().kind(), Kind::Corrupt, "{wrong:?}");
    }
    assert_eq!(seal.content("x", &end.header, &end.last).unwrap(), end.content);
    // A header that names fewer parts than there are.
    let mut fewer = end.header.to_vec();
    fewer[10] = 1;
    assert_eq!(seal.content("x", &fewer, &end.last).unwrap_err().kind(), Kind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_sealed_opens(length in prop_oneof![0usize..3, 1000usize..9000, FRAME - 1..FRAME + 2, 2 * FRAME..2 * FRAME + 9], codec in codecs(), seed in any::<u8>()) {
        let plain = content(length, seed);
        let object = make(&seal(1), "wal/a", &plain, codec);
        prop_assert_eq!(seal(1).open("wal/a", &object).unwrap(), &plain[..]);
        let told = seal(1).content("wal/a", &object[..HEADER], &object[object.len() - TAIL..]).unwrap();
        prop_assert_eq!(told, Content::of(&plain));
    }

    /// Any bit, anywhere.
    #[test]
    fn a_changed_bit_is_noticed(length in 0usize..9000, codec in codecs(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut object = make(&seal(1), "wal/a", &content(length, 7), codec);
        let at = at.index(object.len());
        object[at] ^= 1 << bit;
        prop_assert!(seal(1).open("wal/a", &object).is_err(), "byte {at}");
    }

    #[test]
    fn a_cut_or_longer_object_is_noticed(length in 0usize..(2 * FRAME), cut in any::<prop::sample::Index>(), more in proptest::collection::vec(any::<u8>(), 1..100)) {
        let object = make(&seal(1), "wal/a", &content(length, 7), Codec::default());
        prop_assert!(seal(1).open("wal/a", &object[..cut.index(object.len())]).is_err());
        prop_assert!(seal(1).open("wal/a", &[&object[..], &more].concat()).is_err());
    }

    /// Whole frames left out, doubled or in another order, also with the end of another object of the same name.
    #[test]
    fn other_orders_of_frames_are_noticed(order in proptest::collection::vec(0usize..4, 0..6)) {
        let object = make(&seal(1), "wal/a", &content(2 * FRAME + 5, 7), Codec::Lz4);
        let places = frames(&object);
        prop_assert_eq!(places.len(), 4);
        let mut other = object[..HEADER].to_vec();
        order.iter().for_each(|i| other.extend_from_slice(&object[places[*i].clone()]));
        prop_assert_eq!(seal(1).open("wal/a", &other).is_ok(), order == [0, 1, 2, 3]);
        let twin = make(&seal(1), "wal/a", &content(2 * FRAME + 5, 7), Codec::Lz4);
        let mixed = [&object[..places[0].end], &twin[frames(&twin)[1].start..]].concat();
        prop_assert!(seal(1).open("wal/a", &mixed).is_err());
    }

    #[test]
    fn another_name_or_repository_does_not_open(length in 0usize..5000) {
        let plain = content(length, 7);
        let object = make(&seal(1), "wal/a", &plain, Codec::default());
        prop_assert_eq!(seal(1).open("wal/b", &object).unwrap_err().kind(), Kind::Corrupt);
        let foreign = seal(2).open("wal/a", &object).unwrap_err();
        prop_assert!(foreign.to_string().contains("belongs to repository 01010101"), "{}", foreign);
        let (head, tail) = (&object[..HEADER], &object[object.len() - TAIL..]);
        prop_assert!(seal(1).content("wal/b", head, tail).is_err());
        // The same repository id, another key: a repository made anew with its config copied.
        let thief = ObjectSeal::new(&MasterKey { encrypt: [9; 32], mac_k: [2; 16], mac_r: [3; 16] }, Id([1; 32])).unwrap();
        prop_assert!(thief.open("wal/a", &object).is_err());
    }
}
