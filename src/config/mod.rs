//! See `design`: the config room.
