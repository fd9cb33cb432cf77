//! See `design`: the http room.
