//! See `design`: the postgres room.
