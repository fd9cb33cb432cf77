//! See `design`: the schedule room.
