//! See `design`: the crypto room.
