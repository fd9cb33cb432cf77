//! A writer stands still past its lock while a stock client unlocks and prunes: it commits a whole snapshot, or none.
