//! See `design`: the app room.
pub mod daemon;
