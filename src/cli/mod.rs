//! See `design`: the cli room.
