//! What an archive says about itself.

/// What the header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The format's version, e.g. (1, 16).
    pub version: (u8, u8),
    /// Whether the data is compressed inside, which costs deduplication.
    pub compressed: bool,
    /// The database's name.
    pub database: String,
    /// The version of the server it came from.
    pub server_version: String,
    /// The version of the `pg_dump` that wrote it.
    pub tool_version: String,
    /// How many entries the table of contents has.
    pub entries: u64,
}

/// An entry of the table of contents. Texts are cut at 64 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TocEntry {
    /// Its number in this archive.
    pub id: i64,
    /// Whether a data block belongs to it.
    pub has_data: bool,
    /// The object's name; for a constraint, `table constraint`.
    pub tag: String,
    /// What it is: `TABLE`, `TABLE DATA`, `INDEX`, …
    pub kind: String,
    /// Its schema; empty if it has none.
    pub schema: String,
    /// Its owner.
    pub owner: String,
    /// The SQL that makes it; kept for the database itself only: kinds `DATABASE`, `DATABASE PROPERTIES`, and the rights,
    /// comment and labels whose tag is `DATABASE name`.
    pub sql: String,
    /// The numbers of the entries it depends on.
    pub depends_on: Vec<i64>,
}

/// Where an entry's data lies, for filling in the offsets that `pg_dump` could not write into a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPlace {
    /// The position of the entry's offset field (a flag byte, then [`Summary::offset_size`] bytes).
    pub field: u64,
    /// The position of its block.
    pub block: u64,
}

/// A whole archive's facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What the header says.
    pub header: Header,
    /// How many entries have data.
    pub data_entries: u64,
    /// Bytes of data in all blocks.
    pub data_bytes: u64,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Bytes of an offset in the table of contents.
    pub offset_size: usize,
    /// Where data lies; by entry, in no order.
    pub places: Vec<DataPlace>,
}
