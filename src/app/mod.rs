//! See `design`: the app room.
