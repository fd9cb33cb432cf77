//! A sink that keeps what was committed.

use std::collections::BTreeMap;
use std::io::{self, Write};

use strongroom::error::{Error, Kind, Result};
use strongroom::source::{Sink, SinkFile};

/// Committed files by path, and every path that was begun.
#[derive(Default)]
pub struct Memory {
    pub files: BTreeMap<String, Vec<u8>>,
    pub begun: Vec<String>,
    /// Writes fail once so many bytes of one file were taken.
    pub fail_after: Option<usize>,
    /// Called with the bytes of the file so far.
    pub on_write: Option<Box<dyn FnMut(usize) + Send>>,
}

impl Memory {
    pub fn file(&self, path: &str) -> &[u8] {
        self.files.get(path).unwrap_or_else(|| panic!("{path} is not among {:?}", self.files.keys()))
    }
}

impl Sink for Memory {
    fn create(&mut self, path: &str) -> Result<Box<dyn SinkFile + '_>> {
        assert!(!self.files.contains_key(path), "{path} was committed before");
        self.begun.push(path.to_owned());
        Ok(Box::new(File { path: path.to_owned(), bytes: Vec::new(), sink: self }))
    }
}

struct File<'a> {
    path: String,
    bytes: Vec<u8>,
    sink: &'a mut Memory,
}

impl Write for File<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(buf);
        if let Some(f) = &mut self.sink.on_write {
            f(self.bytes.len());
        }
        match self.sink.fail_after {
            Some(limit) if self.bytes.len() > limit => {
                Err(io::Error::other(Error::new(Kind::Unavailable, "the store is gone").hint("Look after it.")))
            }
            _ => Ok(buf.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SinkFile for File<'_> {
    fn commit(self: Box<Self>) -> Result<u64> {
        let length = self.bytes.len() as u64;
        self.sink.files.insert(self.path, self.bytes);
        Ok(length)
    }
}
