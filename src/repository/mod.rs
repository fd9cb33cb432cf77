//! restic format v2, written and read by our own engine.
//!
//! Order of writes: packs → index (of acknowledged packs) → snapshot last, the commit point. A crash at any point
//! leaves only data that nothing refers to, which the next run finds and uses. Deletion goes the other way round.
//!
//! The engine's calls **block**: call them from threads that may (`tokio::task::spawn_blocking`, a source's or a
//! restore's own threads), never from a task. Requests to the store run on the tokio runtime that
//! [`Repository`] was opened on.

