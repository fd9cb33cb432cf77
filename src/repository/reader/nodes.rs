//! The entries of a directory one after another, for callers that pull.

use crossbeam_channel::{Receiver, bounded};

use super::Reader;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node};

/// Entries handed over at a time, and how many such hands are full.
const BATCH: usize = 256;
const AHEAD: usize = 2;

/// The entries of a directory in the order stored. A huge one is decoded on a thread of its own, a little ahead, and never
/// held as a whole; dropping this ends the thread.
pub struct Nodes {
    ready: std::vec::IntoIter<Node>,
    /// Batches to come; an empty one is the end.
    rest: Option<Receiver<Result<Vec<Node>>>>,
}

impl Reader {
    /// The entries of a directory one after another.
    ///
    /// # Errors
    /// As [`Reader::tree`]; of a huge directory, what is wrong may come later, as the last item.
    pub fn nodes(&self, id: Id) -> Result<Nodes> {
        if !self.is_large_tree(&id)? {
            return Ok(Nodes { ready: self.tree(id)?.into_iter(), rest: None });
        }
        let (sender, receiver) = bounded(AHEAD);
        let reader = self.clone();
        let decode = move || {
            let mut batch = Vec::with_capacity(BATCH);
            let gone = || Error::new(Kind::Cancelled, "nobody wants the rest");
            let visited = reader.visit_tree(id, &mut |node| {
                batch.push(node);
                if batch.len() < BATCH {
                    return Ok(());
                }
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                sender.send(Ok(full)).map_err(|_| gone())
            });
            // Nobody may be there to hear it, and then nobody wants to.
            let _told = match visited {
                Ok(()) => (batch.is_empty() || sender.send(Ok(batch)).is_ok()) && sender.send(Ok(Vec::new())).is_ok(),
                Err(e) => sender.send(Err(e)).is_ok(),
            };
        };
        std::thread::Builder::new()
            .name("tree".to_owned())
            .spawn(decode)
            .map_err(|e| Error::new(Kind::Failed, "start a thread").because(e))?;
        Ok(Nodes { ready: Vec::new().into_iter(), rest: Some(receiver) })
    }
}

impl Iterator for Nodes {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Result<Node>> {
        loop {
            if let Some(node) = self.ready.next() {
                return Some(Ok(node));
            }
            let batch = match self.rest.as_ref()?.recv() {
                Ok(Ok(batch)) if batch.is_empty() => {
                    self.rest = None;
                    return None;
                }
                Ok(batch) => batch,
                Err(_) => Err(Error::new(Kind::Bug, "a thread that read a directory ended abnormally")),
            };
            match batch {
                Ok(batch) => self.ready = batch.into_iter(),
                Err(e) => {
                    self.rest = None;
                    return Some(Err(e));
                }
            }
        }
    }
}
