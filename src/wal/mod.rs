//! The WAL archive: every segment of a cluster's log, once, checked, sealed, and given back only with proof.
//!
//! Layout, below the repository: `wal/<cluster>/systems`, and for each system `wal/<cluster>/<major>-<system identifier>/` with
//! `identity`, `history/<timeline>.history`, `<first 16 digits>/<segment>` (`.partial`, `.<offset>.backup` beside it),
//! `<segment>.tip/<offset>` and, of large objects, `<object>.part/…`. Every object is sealed and bound to its key
//! ([`crate::crypto::object`] has the format; `docs/wal-archive.md` tells all of it to operators).
//!
//! **Order of writes**: system listed → timeline listed in the identity object → history file → segments. A segment is created and
//! never replaced, so a crash or a second writer can do no harm: what is there is compared, and is the same or an error.
//! **What leaks on a crash**: parts of an object that did not come to be, tips of a segment that is stored. [`Folder::expire`]
//! removes them.
//!
//! # Who uses what
//! - **Archiving** (`wal push`, the daemon's socket): [`Archive::open`] with the repository's store and
//!   `Repository::object_seal`, [`Archive::folder`] with the server's [`crate::model::SystemId`] ([`crate::postgres::WalHeader`] tells it from any segment), one
//!   [`Pusher`] for the life of the process: [`Pusher::push`] answers for one file and pushes ahead what `archive_status` says is
//!   ready. After a promotion, [`Folder::backfill`] stores what the old primary left behind. `wal adopt` is [`Archive::adopt`] and
//!   [`Folder::register`]; `wal status` is [`Folder::survey`] and [`Folder::identity`].
//! - **Streaming** (`wal receive`): a [`Receiver`] does all of it. Underneath, [`Folder::register`] with the history that the
//!   server sent, before the first byte of a
//!   timeline; [`Folder::tip_end`] tells where to go on; [`Folder::push_tip`] while a segment grows, [`Folder::push`] when it is whole. What
//!   these returned for may be confirmed to the server. [`Folder::record_gap`] for what the server had already removed.
//! - **Recovery** (`wal fetch`): [`Folder::fetch`], or [`Prefetcher::fetch`] in front of it. `Delivered` and `Unfinished` are exit 0,
//!   `Missing` is 1, an error is 255 (1 for a standby). Planning: [`Folder::identity`] ([`Identity::path`], [`Identity::reachable`]) and
//!   [`Folder::survey`] ([`Survey::missing`]).
//! - **Expiry**: [`Folder::survey`], [`Need`] made by the policy out of [`Identity::reachable`] for each base backup, [`plan_expiry`] (pure),
//!   [`Folder::expire`].

mod archive;
mod coverage;
mod expire;
mod fetch;
mod folder;
mod identity;
mod names;
mod object;
mod prefetch;
mod push;
mod ready;
mod receive;
mod room;
mod split;
mod tip;

pub use archive::{Admitted, Archive};
pub use coverage::{Coverage, SegmentRange, StoredSegment, Survey};
pub use expire::{ExpiryPlan, Need, plan_expiry};
pub use fetch::{Fetched, Mode};
pub use folder::Folder;
pub use identity::{Gap, Identity, KnownTimeline, Stretch};
pub use object::Source;
pub use prefetch::{PrefetchOptions, Prefetcher};
pub use push::Pushed;
pub use ready::{PushOptions, PushedFile, Pusher, ready_files};
pub use receive::{Progress, ReadSettings, ReceiveEvent, ReceiveOptions, Receiver, Watcher};
pub use split::{SeenSplit, Split};
