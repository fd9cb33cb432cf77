use super::*;

/// A control file of this version with a right checksum; fields that are not named are zero.
fn file(version: u32, catalog: u32) -> Vec<u8> {
    let mut bytes = vec![0; FILE_SIZE];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &7_300_000_000_000_000_001u64.to_le_bytes());
    put(8, &version.to_le_bytes());
    put(12, &catalog.to_le_bytes());
    put(16, &6u32.to_le_bytes());
    put(228, &(16u32 << 20).to_le_bytes());
    seal(&mut bytes, version);
    bytes
}

fn seal(bytes: &mut [u8], version: u32) {
    let at = if version == 1800 { 292 } else { 288 };
    let crc = crc32c(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn each_layout_is_known_with_its_majors() {
    for (version, catalog, major) in
        [(1300, 202_007_201, 13), (1300, 202_307_071, 16), (1700, 202_406_281, 17), (1800, 202_506_291, 18)]
    {
        let control = parse(&file(version, catalog)).unwrap();
        assert_eq!((control.major, control.system_identifier), (major, 7_300_000_000_000_000_001));
        assert_eq!((control.state, control.wal_segment_size), (State::InProduction, SegmentSize::DEFAULT));
    }
}

#[test]
fn any_flipped_bit_is_seen() {
    let good = file(1800, 202_506_291);
    for bit in 0..(296 * 8) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn what_is_not_supported_is_said() {
    let report = |bytes: &[u8]| parse(bytes).unwrap_err().report();
    assert!(report(&file(1201, 1)).contains("version 1201"));
    assert!(report(&file(1300u32.swap_bytes(), 1)).contains("big-endian"));
    assert!(report(&file(1300, 202_401_011)).contains("catalog has version 202401011"));
    assert!(report(&[0; 11]).contains("too short"));
    assert!(report(&file(1300, 202_007_201)[..290]).contains("too short"));
    let mut odd = file(1300, 202_007_201);
    odd[228..232].copy_from_slice(&3u32.to_le_bytes());
    seal(&mut odd, 1300);
    assert_eq!(parse(&odd).unwrap_err().kind(), Kind::Corrupt);
}
