//! `backup_manifest`: PostgreSQL's own list of what is in a backup, for `pg_verifybackup` and incremental backups.
//!
//! The text is that of `backup_manifest.c`: one file a line, in any order, at the end a SHA-256 of everything before it. It is
//! written as the files are, so that a cluster of very many files takes no memory here. WAL is named by its range only.
//!
//! Version history of the format: 1 since PostgreSQL 13; 2, with the system identifier, since 17.

use std::io::Write;

use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, Time, Timeline, civil_from_days};

/// Its name in the data directory.
pub const FILE: &str = "backup_manifest";

/// Digests what a manifest's text is. Given in, since hashing belongs to another room.
pub trait Digest {
    /// The next piece of text.
    fn update(&mut self, piece: &[u8]);
    /// SHA-256 of all pieces, in lower-case hexadecimal digits.
    fn finish(self) -> String;
}

/// One file of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Path in the data directory, `/`-separated raw bytes.
    pub path: Vec<u8>,
    /// Length in bytes.
    pub size: u64,
    /// Last change.
    pub modified: Time,
    /// CRC-32C of the content.
    pub crc: u32,
}

/// Writes a manifest to `W`.
pub struct ManifestWriter<W, D> {
    out: W,
    digest: D,
    files: u64,
}

impl<W: Write, D: Digest> ManifestWriter<W, D> {
    /// Begins it in the form that servers of this major write.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(out: W, digest: D, major: u32, system_identifier: u64) -> Result<Self> {
        let mut manifest = Self { out, digest, files: 0 };
        if major >= 17 {
            manifest.put(&format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n\"Files\": ["
            ))?;
        } else {
            manifest.put("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [")?;
        }
        Ok(manifest)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Those of the output.
    pub fn add(&mut self, file: &ManifestFile) -> Result<()> {
        let separator = if self.files == 0 { "\n" } else { ",\n" };
        self.files += 1;
        let path = match std::str::from_utf8(&file.path) {
            Ok(text) => {
                let quoted =
                    serde_json::to_string(text).map_err(|e| Error::new(Kind::Bug, "write the backup manifest").because(e))?;
                format!("\"Path\": {quoted}")
            }
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex::encode(&file.path)),
        };
        // The bytes of the sum as they lie in the memory of the machines that PostgreSQL runs on.
        let crc = hex::encode(file.crc.to_le_bytes());
        self.put(&format!(
            "{separator}{{ {path}, \"Size\": {}, \"Last-Modified\": \"{}\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}",
            file.size,
            gmt(file.modified),
        ))
    }

    /// Ends it with the WAL that is needed to make the backup consistent. Returns the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self, timeline: Timeline, start: Lsn, stop: Lsn) -> Result<W> {
        self.put(&format!(
            "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{stop}\" }}\n],\n"
        ))?;
        let sum = self.digest.finish();
        writeln!(self.out, "\"Manifest-Checksum\": \"{sum}\"}}").context(|| "write the backup manifest")?;
        Ok(self.out)
    }

    fn put(&mut self, text: &str) -> Result<()> {
        self.digest.update(text.as_bytes());
        self.out.write_all(text.as_bytes()).context(|| "write the backup manifest")
    }
}

/// `2026-11-21 07:00:00 GMT`.
fn gmt(time: Time) -> String {
    let (year, month, day) = civil_from_days(time.secs.div_euclid(86_400));
    let s = time.secs.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} GMT", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum(Vec<u8>);

    impl Digest for Sum {
        fn update(&mut self, piece: &[u8]) {
            self.0.extend(piece);
        }
        fn finish(self) -> String {
            format!("{} bytes", self.0.len())
        }
    }

    fn manifest(major: u32, files: &[ManifestFile]) -> String {
        let mut writer = ManifestWriter::begin(Vec::new(), Sum(Vec::new()), major, 77).unwrap();
        files.iter().for_each(|f| writer.add(f).unwrap());
        String::from_utf8(writer.finish(Timeline(2), Lsn(0x0200_0028), Lsn(0x0200_0100)).unwrap()).unwrap()
    }

    #[test]
    fn the_text_is_postgresqls() {
        let file =
            |path: &[u8]| ManifestFile { path: path.to_vec(), size: 3, modified: Time::new(1_795_244_400, 5), crc: 0xE306_9283 };
        let text = manifest(16, &[file(b"PG_VERSION"), file(b"a\"b\xff")]);
        let expected = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
            { \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"2026-11-21 07:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" },\n\
            { \"Encoded-Path\": \"612262ff\", \"Size\": 3, \"Last-Modified\": \"2026-11-21 07:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" }\n\
            ],\n\"WAL-Ranges\": [\n{ \"Timeline\": 2, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n";
        assert_eq!(text, format!("{expected}\"Manifest-Checksum\": \"{} bytes\"}}\n", expected.len()));
        assert!(
            manifest(17, &[])
                .starts_with("{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 77,\n\"Files\": [\n],\n")
        );
    }
}
