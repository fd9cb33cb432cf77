//! Files of a mounted volume: listing, metadata, exclusion.
