//! From hosts to a place to stream from: who is there, is it the right server, what does its slot keep, what is missing.

use futures::TryStreamExt as _;

use super::resume::{self, Place, Stored};
use super::{Memory, ReceiveEvent, Receiver};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentName, SegmentSize, SystemId, Timeline, TimelineHistory, WalFile};
use crate::postgres::replication::Refusal;
use crate::postgres::{ConnectionSettings, Replication};
use crate::wal::folder::Folder;
use crate::wal::identity::Identity;
use crate::wal::names::Entry;

/// A server that may be streamed from.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) replication: Replication,
    pub(super) folder: Folder,
    pub(super) size: SegmentSize,
    /// The timeline that just ended goes on here.
    pub(super) next: Option<Place>,
}

/// Connects to the first host that is there, has the wanted role and is not behind the archive; to one that has not what is
/// missing only if no other will do.
pub(super) async fn connect(receiver: &Receiver, settings: &ConnectionSettings, memory: &mut Memory) -> Result<Connected> {
    let mut last = None;
    let (refused, fresh): (Vec<_>, Vec<_>) = settings.hosts().into_iter().partition(|h| memory.is_last_resort(h));
    for host in fresh.into_iter().chain(refused) {
        match connect_host(receiver, &host, memory).await {
            Ok(connected) => return Ok(connected),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Bug, "the connection settings name no host")))
}

async fn connect_host(receiver: &Receiver, host: &ConnectionSettings, memory: &mut Memory) -> Result<Connected> {
    let mut replication = Replication::connect(host).await?;
    let slot = &receiver.options.slot;
    if memory.host(replication.settings()).drop_slot {
        // An error if it is a logical slot, which is not ours.
        replication.read_slot(slot).await?;
        drop_slot(&mut replication, slot).await?;
        memory.host(replication.settings()).drop_slot = false;
    }
    let identity = replication.identify_system().await?;
    // Before the store is asked for anything: it may be the one that is missing, and the server's disk must not fill up for it.
    if let Some(most) = receiver.options.max_slot_size
        && let Some(restart) = replication.read_slot(slot).await?.and_then(|s| s.restart)
        && let kept = identity.flushed.0.saturating_sub(restart.0)
        && kept > most
    {
        drop_slot(&mut replication, slot).await?;
        memory.host(replication.settings()).give_up = true;
        receiver.watcher.event(ReceiveEvent::SlotDropped { kept });
        // Another host's slot may keep less.
        return Err(Error::new(
            Kind::Unavailable,
            format!("the replication slot {slot} kept {kept} bytes on {host} and was dropped"),
        ));
    }
    let size = segment_size(&replication.show("wal_segment_size").await?)?;
    let system = SystemId { major: replication.version().major(), identifier: identity.system_identifier };
    let folder = match memory.folder.take().filter(|f| f.system() == system) {
        Some(folder) => folder,
        None => receiver.archive.folder(system),
    };
    memory.folder = Some(folder.clone());
    let archived = folder.identity().await?;
    if let Some(newer) = archived.as_ref().and_then(|a| newer_timeline(a, identity.timeline)) {
        return Err(Error::new(
            Kind::Unavailable,
            format!("{host} is on timeline {}, and the archive went on to timeline {newer}, which left it", identity.timeline),
        )
        .hint("This is a former primary, or a standby that has not followed. Name all hosts in the URL; this one must be rebuilt or rewound."));
    }
    Ok(Connected { replication, folder, size, next: None })
}

/// A timeline of the archive that descends from this one.
fn newer_timeline(identity: &Identity, timeline: Timeline) -> Option<Timeline> {
    let descends = |a: &[crate::model::Ancestor]| a.iter().any(|a| a.timeline == timeline);
    identity.timelines.iter().rev().find(|k| k.ancestors.as_deref().is_some_and(descends)).map(|k| k.timeline)
}

/// Finds where to stream from, and makes sure that the archive and the server are ready for it.
pub(super) async fn place(receiver: &Receiver, connected: &mut Connected, memory: &mut Memory) -> Result<Place> {
    let identity = connected.replication.identify_system().await?;
    let history = register(connected, identity.timeline).await?;
    let size = connected.size;
    let slot = &receiver.options.slot;
    let mut restart = slot_position(&mut connected.replication, slot).await?;
    let mut place = match connected.next.take() {
        Some(next) => next,
        None => {
            let stored = stored(connected, &history, restart).await?;
            resume::place(&history, &stored, restart, size)
        }
    };
    // Connected to one that refused: no other will do.
    let host = memory.host(connected.replication.settings());
    let removed = host.removed.take() == Some(place);
    if removed && let Some(next) = resume::next_in_segment(&history, place, size) {
        // All that is missing is in the next timeline's segment as well.
        place.timeline = next;
    } else if removed || host.give_up {
        if removed && resume::floor(restart, size) <= place.start {
            restart = renewed(&mut connected.replication, slot, place.start).await?;
        }
        let to = resume::floor(restart, size);
        if to > place.start {
            give_up(receiver, connected, &history, place.start, to).await?;
            place = Place { timeline: history.timeline_at(to), start: to };
        }
    }
    host.give_up = false;
    if place.timeline != history.timeline {
        let past = history.ancestors.iter().take_while(|a| a.timeline != place.timeline).copied().collect();
        let past = TimelineHistory { timeline: place.timeline, ancestors: past };
        connected.folder.register(place.timeline, Some(&past), size).await?;
    }
    let host = connected.replication.settings().to_string();
    let (timeline, from) = (place.timeline, place.start);
    receiver.watcher.event(ReceiveEvent::Streaming { system: connected.folder.system(), host: &host, timeline, from });
    Ok(place)
}

/// Lists the server's timeline in the archive, its history file first.
async fn register(connected: &mut Connected, timeline: Timeline) -> Result<TimelineHistory> {
    if timeline.0 == 1 {
        connected.folder.register(timeline, None, connected.size).await?;
        return Ok(TimelineHistory::root(timeline));
    }
    let file = connected.replication.timeline_history(timeline).await?;
    let known = connected.folder.register(timeline, Some(&file.history), connected.size).await?;
    connected.folder.push(&WalFile::History(timeline), file.content).await?;
    // Recovery asks for one history after the other; those in between are only of use together.
    for ancestor in file.history.ancestors.iter().filter(|a| a.timeline.0 > 1 && known.known(a.timeline).is_none()) {
        if let Ok(older) = connected.replication.timeline_history(ancestor.timeline).await {
            connected.folder.push(&WalFile::History(ancestor.timeline), older.content).await?;
        }
    }
    Ok(file.history)
}

/// From where on the slot keeps WAL. Makes it where it is missing, and again where it keeps nothing.
async fn slot_position(replication: &mut Replication, name: &str) -> Result<Lsn> {
    match replication.read_slot(name).await? {
        Some(slot) => {
            if let Some(restart) = slot.restart {
                return Ok(restart);
            }
            // Made without RESERVE_WAL and never used, or invalidated: nothing is lost with it.
            drop_slot(replication, name).await?;
        }
        None => tracing::info!(slot = name, "the replication slot is created"),
    }
    match replication.create_physical_slot(name, false, true).await {
        Err(e) if Refusal::of(&e) != Some(Refusal::SlotExists) => return Err(e),
        _ => {}
    }
    let restart = replication.read_slot(name).await?.and_then(|s| s.restart);
    restart.ok_or_else(|| Error::new(Kind::Unavailable, format!("the replication slot {name} keeps no WAL")))
}

/// The slot says that it keeps WAL, and the server says that it has none there: a new one.
async fn renewed(replication: &mut Replication, name: &str, removed: Lsn) -> Result<Lsn> {
    drop_slot(replication, name).await?;
    let restart = slot_position(replication, name).await?;
    if restart < removed {
        return Err(Error::new(Kind::Unavailable, format!("a new slot begins at {restart}, and WAL at {removed} was removed")));
    }
    Ok(restart)
}

async fn drop_slot(replication: &mut Replication, name: &str) -> Result<()> {
    match replication.drop_slot(name).await {
        Err(e) if Refusal::of(&e) == Some(Refusal::SlotMissing) => Ok(()),
        other => other,
    }
}

/// Records that a stretch is lost.
async fn give_up(receiver: &Receiver, connected: &Connected, history: &TimelineHistory, from: Lsn, to: Lsn) -> Result<()> {
    let reason = "the server had removed it before it was received";
    for (timeline, from, to) in resume::parts(history, from, to) {
        connected.folder.record_gap(timeline, from, to, reason).await.context(|| "record that WAL is lost")?;
        receiver.watcher.event(ReceiveEvent::Gap { system: connected.folder.system(), timeline, from, to, reason });
    }
    Ok(())
}

/// What is stored of the lineage, from the slot's position (or the newest known segment, if that is earlier) on.
async fn stored(connected: &Connected, history: &TimelineHistory, restart: Lsn) -> Result<Stored> {
    let identity = connected.folder.identity().await?;
    let mut stored = Stored::default();
    let from = SegmentName::at(history.timeline, restart, connected.size).log;
    let timelines = history.ancestors.iter().map(|a| a.timeline).chain([history.timeline]);
    for timeline in timelines {
        let newest = identity.as_ref().and_then(|i| i.known(timeline)).and_then(|k| k.newest).map(|n| n.log);
        let Some(newest) = newest else {
            // Nothing is said of it: look at all of it.
            list(&connected.folder, &format!("{:08X}", timeline.0), &mut stored).await?;
            continue;
        };
        // And on to those stored since the newest was written down.
        for log in newest.min(from).. {
            let before = stored.whole.len() + stored.begun.len();
            list(&connected.folder, &format!("{:08X}{log:08X}/", timeline.0), &mut stored).await?;
            if log >= newest && stored.whole.len() + stored.begun.len() == before {
                break;
            }
        }
    }
    Ok(stored)
}

async fn list(folder: &Folder, below: &str, stored: &mut Stored) -> Result<()> {
    let prefix = format!("{}{below}", folder.path());
    let mut listing = folder.objects().store.list(&prefix);
    while let Some(meta) = listing.try_next().await.context(|| format!("list {prefix}"))? {
        match folder.names().parse(&meta.key) {
            Some(Entry::File(WalFile::Segment(name))) => drop(stored.whole.insert(name)),
            Some(Entry::Tip(name, _)) => drop(stored.begun.insert(name)),
            _ => {}
        }
    }
    Ok(())
}

/// `16MB`, `1GB`: as the server writes it.
fn segment_size(text: &str) -> Result<SegmentSize> {
    let bytes = || {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match text.get(digits.len()..)? {
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    };
    let bytes = bytes().ok_or_else(|| Error::new(Kind::Failed, format!("`{text}` is no wal_segment_size")))?;
    SegmentSize::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_sizes_are_read() {
        for (text, mib) in [("1MB", 1), ("16MB", 16), ("1GB", 1024)] {
            assert_eq!(segment_size(text).unwrap().bytes(), mib << 20);
        }
        for bad in ["", "16", "3MB", "16kB", "-1MB"] {
            assert!(segment_size(bad).is_err(), "{bad}");
        }
    }
}
