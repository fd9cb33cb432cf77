//! See `design`: the restore room.
