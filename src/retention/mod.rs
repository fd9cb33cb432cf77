//! See `design`: the retention room.
