//! The command source and restore.
