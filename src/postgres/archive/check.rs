//! The check itself: header, table of contents, then every block against its entry.

use std::collections::HashMap;

use super::blocks::{BlockKind, Blocks, Event};
use super::facts::{DataPlace, Header, Summary, TocEntry};
use super::token::{Collector, Token, Want};
use crate::error::{Error, Kind, Result};

/// The fields of an entry, in the order they are written. Each version has those up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    HasData,
    TableOid,
    Oid,
    Tag,
    Kind,
    Section,
    Sql,
    DropSql,
    CopySql,
    Schema,
    Tablespace,
    AccessMethod,
    RelationKind,
    Owner,
    WithOids,
    Dependency,
    Offset,
}

#[derive(Debug)]
enum Stage {
    Magic,
    Compression,
    /// Second to daylight-saving flag.
    Created(u8),
    Text(u8),
    Count,
    Entry(Field),
    Data(Blocks),
}

#[derive(Debug)]
struct Expected {
    name: String,
    kind: BlockKind,
    field: u64,
    block: Option<u64>,
    done: bool,
}

type OnEntry = Box<dyn FnMut(&TocEntry) + Send>;

/// Reads an archive as it is fed. Keeps about 150 bytes for each entry that has data and nothing of the data.
pub struct ArchiveCheck {
    stage: Stage,
    collector: Collector,
    position: u64,
    header: Header,
    int_size: usize,
    offset_size: usize,
    left: u64,
    entry: TocEntry,
    expected: HashMap<i64, Expected>,
    open: Option<i64>,
    broken: bool,
    on_entry: Option<OnEntry>,
}

impl Default for ArchiveCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl ArchiveCheck {
    /// At the beginning of an archive.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Magic,
            collector: Collector::new(),
            position: 0,
            header: Header::default(),
            int_size: 4,
            offset_size: 8,
            left: 0,
            entry: TocEntry::default(),
            expected: HashMap::new(),
            open: None,
            broken: false,
            on_entry: None,
        }
    }

    /// Calls `f` with every entry of the table of contents, in the archive's order.
    #[must_use]
    pub fn on_entry(mut self, f: impl FnMut(&TocEntry) + Send + 'static) -> Self {
        self.on_entry = Some(Box::new(f));
        self
    }

    /// The header, once it was read.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        matches!(self.stage, Stage::Entry(_) | Stage::Data(_)).then_some(&self.header)
    }

    /// Whether the whole table of contents was read.
    #[must_use]
    pub fn toc_complete(&self) -> bool {
        matches!(self.stage, Stage::Data(_))
    }

    /// The next bytes, cut anywhere.
    ///
    /// # Errors
    /// [`Kind::Corrupt`], naming the place, as soon as this cannot be an archive any more; then at every further call.
    pub fn feed(&mut self, input: &[u8]) -> Result<()> {
        if self.broken {
            return Err(Error::new(Kind::Corrupt, "the archive is damaged, as was said before"));
        }
        let mut rest = input;
        let result = self.work(&mut rest);
        let at = self.position.saturating_add(input.len().saturating_sub(rest.len()) as u64);
        self.position = self.position.saturating_add(input.len() as u64);
        result.map_err(|e| {
            self.broken = true;
            Error::new(Kind::Corrupt, format!("not a whole pg_dump archive: near byte {at}")).because(e)
        })
    }

    /// The end of the input.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if something is missing; names the first entries without data.
    pub fn finish(self) -> Result<Summary> {
        let cut = |what: String| {
            Err(Error::new(Kind::Corrupt, format!("not a whole pg_dump archive: {what} (after {} bytes)", self.position)))
        };
        if self.broken {
            return cut("it is damaged".to_owned());
        }
        let Stage::Data(blocks) = &self.stage else {
            return cut(if self.position == 0 {
                "it is empty".to_owned()
            } else {
                "it ends within its table of contents".to_owned()
            });
        };
        if !blocks.between_blocks() {
            let name = self.open.and_then(|id| self.expected.get(&id)).map_or("a block", |e| e.name.as_str());
            return cut(format!("it ends within the data of {name}"));
        }
        let mut missing: Vec<&str> = self.expected.values().filter(|e| !e.done).map(|e| e.name.as_str()).collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            let count = missing.len();
            missing.truncate(5);
            return cut(format!("the data of {count} entries is missing, such as {}", missing.join(", ")));
        }
        let places = self.expected.values().filter_map(|e| Some(DataPlace { field: e.field, block: e.block? })).collect();
        Ok(Summary {
            data_entries: self.expected.len() as u64,
            data_bytes: blocks.bytes,
            bytes: self.position,
            offset_size: self.offset_size,
            places,
            header: self.header,
        })
    }

    fn work(&mut self, rest: &mut &[u8]) -> Result<()> {
        let start = rest.len();
        loop {
            if let Stage::Data(blocks) = &mut self.stage {
                match blocks.feed(rest)? {
                    Event::NeedMore => return Ok(()),
                    Event::Begin(kind, id, left) => {
                        let at =
                            self.position.saturating_add(start.saturating_sub(left) as u64).saturating_sub(blocks.head_len());
                        self.begin(kind, id, at)?;
                    }
                    Event::End => {
                        if let Some(e) = self.open.take().and_then(|id| self.expected.get_mut(&id)) {
                            e.done = true;
                        }
                    }
                }
                continue;
            }
            let Some(token) = self.collector.collect(self.want(), rest)? else { return Ok(()) };
            let at = self.position.saturating_add(start.saturating_sub(rest.len()) as u64);
            self.take(token, at)?;
        }
    }

    fn begin(&mut self, kind: BlockKind, id: i64, at: u64) -> Result<()> {
        let corrupt = |what: String| Err(Error::new(Kind::Corrupt, what));
        match self.expected.get_mut(&id) {
            None => corrupt(format!("a data block belongs to entry {id}, which has no data or does not exist")),
            Some(e) if e.block.is_some() => corrupt(format!("a second data block of {}", e.name)),
            Some(e) if e.kind != kind => corrupt(format!("the data block of {} is of the wrong kind", e.name)),
            Some(e) => {
                e.block = Some(at);
                self.open = Some(id);
                Ok(())
            }
        }
    }

    fn want(&self) -> Want {
        match self.stage {
            Stage::Magic => Want::Bytes(11),
            Stage::Compression if self.header.version >= (1, 15) => Want::Bytes(1),
            Stage::Compression | Stage::Created(_) | Stage::Count | Stage::Data(_) => Want::Int,
            Stage::Text(_) => Want::Text { keep: true },
            Stage::Entry(field) => match field {
                Field::Id | Field::HasData | Field::Section | Field::RelationKind => Want::Int,
                Field::Offset => Want::Bytes(self.offset_size.saturating_add(1)),
                Field::Tag | Field::Kind | Field::Schema | Field::Owner | Field::Dependency => Want::Text { keep: true },
                Field::Sql => {
                    Want::Text { keep: self.entry.kind.starts_with("DATABASE") || self.entry.tag.starts_with("DATABASE ") }
                }
                Field::TableOid
                | Field::Oid
                | Field::DropSql
                | Field::CopySql
                | Field::Tablespace
                | Field::AccessMethod
                | Field::WithOids => Want::Text { keep: false },
            },
        }
    }

    /// `at`: the position behind the token.
    fn take(&mut self, token: Token, at: u64) -> Result<()> {
        self.stage = match (&self.stage, token) {
            (Stage::Magic, Token::Bytes(head)) => {
                self.magic(&head)?;
                Stage::Compression
            }
            (Stage::Compression, Token::Bytes([algorithm, ..])) => {
                self.header.compressed = algorithm != 0;
                Stage::Created(0)
            }
            (Stage::Compression, Token::Int(level)) => {
                self.header.compressed = level != 0;
                Stage::Created(0)
            }
            (Stage::Created(6), _) => Stage::Text(0),
            (Stage::Created(n), _) => Stage::Created(n.saturating_add(1)),
            (Stage::Text(n), Token::Text(text)) => {
                let text = text.unwrap_or_default();
                match n {
                    0 => self.header.database = text,
                    1 => self.header.server_version = text,
                    _ => self.header.tool_version = text,
                }
                if *n < 2 { Stage::Text(n.saturating_add(1)) } else { Stage::Count }
            }
            (Stage::Count, Token::Int(count)) => {
                self.left =
                    u64::try_from(count).map_err(|_| Error::new(Kind::Corrupt, "the table of contents has a negative length"))?;
                self.header.entries = self.left;
                self.next_entry()
            }
            (Stage::Entry(field), token) => self.field(*field, token, at)?,
            _ => return Err(Error::new(Kind::Bug, "the archive reader lost its way")),
        };
        Ok(())
    }

    fn magic(&mut self, head: &[u8; 16]) -> Result<()> {
        let corrupt = |what: String| Err(Error::new(Kind::Corrupt, what));
        let [b'P', b'G', b'D', b'M', b'P', major, minor, _revision, int_size, offset_size, format, ..] = *head else {
            return corrupt("it does not begin with PGDMP".to_owned());
        };
        if format != 1 {
            return corrupt(format!("its format is not pg_dump's custom one (1) but {format}"));
        }
        if !((1, 10)..=(1, 16)).contains(&(major, minor)) {
            return Err(Error::new(Kind::Corrupt, format!("its format version {major}.{minor} is unknown"))
                .hint("Versions 1.10 to 1.16 (up to PostgreSQL 18) are known; a newer pg_dump needs a newer strongroom."));
        }
        if !matches!(int_size, 4 | 8) || !(4..=8).contains(&offset_size) {
            return corrupt(format!("its number sizes {int_size} and {offset_size} are unknown"));
        }
        self.header.version = (major, minor);
        self.int_size = usize::from(int_size);
        self.offset_size = usize::from(offset_size);
        self.collector.set_int_size(self.int_size);
        Ok(())
    }

    fn next_entry(&mut self) -> Stage {
        self.entry = TocEntry::default();
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Stage::Entry(Field::Id)
            }
            None => Stage::Data(Blocks::new(self.int_size)),
        }
    }

    fn field(&mut self, field: Field, token: Token, at: u64) -> Result<Stage> {
        let version = self.header.version;
        let entry = &mut self.entry;
        let text = |token: Token| if let Token::Text(Some(text)) = token { text } else { String::new() };
        let next = match (field, token) {
            (Field::Id, Token::Int(id)) => {
                entry.id = id;
                Field::HasData
            }
            (Field::HasData, Token::Int(flag)) => {
                entry.has_data = flag != 0;
                Field::TableOid
            }
            (Field::TableOid, _) => Field::Oid,
            (Field::Oid, _) => Field::Tag,
            (Field::Tag, token) => {
                entry.tag = text(token);
                Field::Kind
            }
            (Field::Kind, token) => {
                entry.kind = text(token);
                if version >= (1, 11) { Field::Section } else { Field::Sql }
            }
            (Field::Section, _) => Field::Sql,
            (Field::Sql, token) => {
                entry.sql = text(token);
                Field::DropSql
            }
            (Field::DropSql, _) => Field::CopySql,
            (Field::CopySql, _) => Field::Schema,
            (Field::Schema, token) => {
                entry.schema = text(token);
                Field::Tablespace
            }
            (Field::Tablespace, _) if version >= (1, 14) => Field::AccessMethod,
            (Field::AccessMethod, _) if version >= (1, 16) => Field::RelationKind,
            (Field::Tablespace | Field::AccessMethod | Field::RelationKind, _) => Field::Owner,
            (Field::Owner, token) => {
                entry.owner = text(token);
                Field::WithOids
            }
            (Field::WithOids, _) => Field::Dependency,
            (Field::Dependency, Token::Text(Some(id))) => {
                entry
                    .depends_on
                    .push(id.parse().map_err(|e| Error::new(Kind::Corrupt, "a dependency is not a number").because(e))?);
                Field::Dependency
            }
            (Field::Dependency, _) => Field::Offset,
            (Field::Offset, _) => return self.entry_done(at),
            _ => return Err(Error::new(Kind::Bug, "the archive reader lost its way")),
        };
        Ok(Stage::Entry(next))
    }

    fn entry_done(&mut self, at: u64) -> Result<Stage> {
        let entry = &self.entry;
        if let Some(f) = &mut self.on_entry {
            f(entry);
        }
        if entry.has_data {
            let kind = if entry.kind == "BLOBS" { BlockKind::LargeObjects } else { BlockKind::Data };
            let name = if entry.schema.is_empty() { entry.tag.clone() } else { format!("{}.{}", entry.schema, entry.tag) };
            let name = if name.is_empty() { entry.kind.clone() } else { name };
            let field = at.saturating_sub(self.offset_size as u64).saturating_sub(1);
            let expected = Expected { name, kind, field, block: None, done: false };
            if self.expected.insert(entry.id, expected).is_some() {
                return Err(Error::new(Kind::Corrupt, format!("two entries have the number {}", entry.id)));
            }
        }
        Ok(self.next_entry())
    }
}
