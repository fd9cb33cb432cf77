//! Where data comes from: volumes, `pg_dump`, a PostgreSQL cluster's files, the output of a program.
//!
//! Two shapes. A **volume** is read by the archiver directory by directory, in parallel ([`volume`]). A **stream
//! source** ([`Streams`]) runs programs and pushes their output, file by file, into a [`Sink`]; a file that is not
//! committed does not exist, and a source that returns an error leaves no snapshot. A **base backup** ([`pg_base`]) is both:
//! files read in parallel between two words of a server.

pub mod command;
pub mod pg_base;
pub mod pg_dump;
pub mod volume;

use std::io::Write;

use crate::error::Result;
use crate::runtime::Cancel;

/// Receives the files of a stream source. Called from a thread that may block.
pub trait Sink: Send {
    /// Begins a file at a relative path such as `databases/shop.dump`: `/`-separated, no empty, `.` or `..` segment.
    ///
    /// # Errors
    /// A path that was committed before or is not valid; a failed upload of earlier data.
    fn create(&mut self, path: &str) -> Result<Box<dyn SinkFile + '_>>;
}

/// A file being received. Dropped without [`SinkFile::commit`], it is forgotten: this is how a dump is tried again.
pub trait SinkFile: Write {
    /// The file is whole: it will be in the snapshot. Returns its length in bytes.
    ///
    /// # Errors
    /// A failed upload.
    fn commit(self: Box<Self>) -> Result<u64>;
}

/// A source that runs programs.
pub trait Streams: Send {
    /// Runs to the end, commits every file whose program succeeded, and tells what a restore needs to know.
    /// Called from a thread that may block; children are killed when `cancel` fires.
    ///
    /// # Errors
    /// If anything asked for could not be had whole. The caller then makes no snapshot.
    fn run(&mut self, sink: &mut dyn Sink, cancel: &Cancel) -> Result<Report>;
}

/// What a source found, beside the bytes.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Goes into `.strongroom/manifest.json` under the source's name (server version, databases, tool versions, counts).
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// What succeeded but deserves a human's look. Each is one sentence.
    pub warnings: Vec<String>,
    /// What could not be read although it was asked for: makes the snapshot incomplete (exit 3). Each names the object.
    pub missing: Vec<String>,
}

/// What a job backs up.
#[derive(Debug, Clone)]
pub enum SourceSettings {
    /// A directory.
    Volume(volume::Settings),
    /// PostgreSQL databases, dumped.
    PgDump(pg_dump::Settings),
    /// A PostgreSQL cluster, file by file.
    PgBase(pg_base::Settings),
    /// A program's standard output.
    Command(command::Settings),
}

impl SourceSettings {
    /// The word in configs, tags and output.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            SourceSettings::Volume(_) => "volume",
            SourceSettings::PgDump(_) => "pg_dump",
            SourceSettings::PgBase(_) => "pg_base",
            SourceSettings::Command(_) => "command",
        }
    }
}
