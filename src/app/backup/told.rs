//! Sentences for a report: the first of them in words, all of them counted, so that millions take no memory.

use super::KEPT_PROBLEMS;

/// Some sentences and how many there were.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) sentences: Vec<String>,
    pub(super) count: u64,
}

impl Told {
    /// One more. It is put into words only if it is kept.
    pub(super) fn add(&mut self, sentence: &dyn std::fmt::Display) {
        self.count += 1;
        if self.sentences.len() < KEPT_PROBLEMS {
            self.sentences.push(sentence.to_string());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl From<Vec<String>> for Told {
    fn from(sentences: Vec<String>) -> Self {
        Self { count: sentences.len() as u64, sentences }
    }
}
