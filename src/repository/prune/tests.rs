use std::sync::Arc;
use std::time::Duration;

use super::plan::{Fate, Needed, Plan, decide};
use super::*;
use crate::crypto::sha256;
use crate::model::Time;
use crate::repository::index::{IndexBuilder, IndexFile, IndexedBlob, IndexedPack};
use crate::repository::snapshot::{Snapshot, SnapshotFile};
use crate::repository::survey::{Findings, IndexFileFacts, Orphan, PackFacts};

const NOW: i64 = 1_000_000;

/// A repository on paper: each pack is a type and its blobs by name and stored length.
struct Paper {
    survey: Survey,
    data: Marks,
    trees: Marks,
}

fn id(name: &str) -> Id {
    sha256(name.as_bytes())
}

fn paper(packs: &[(BlobType, &[(&str, u32)])], needed: &[&str]) -> Paper {
    let mut builder = IndexBuilder::default();
    let mut facts = Vec::new();
    let mut index_files = Vec::new();
    for (number, (kind, blobs)) in (0u32..).zip(packs) {
        let mut offset = 0;
        let blobs: Vec<IndexedBlob> = blobs
            .iter()
            .map(|(name, length)| {
                let blob = IndexedBlob { id: id(name), kind: *kind, offset, length: *length, uncompressed_length: 9 };
                offset += length;
                blob
            })
            .collect();
        let expected = u64::from(offset) + 36 + 41 * blobs.len() as u64;
        facts.push(PackFacts { expected, listed: Some(expected), index_file: number, repeated: false, mixed: false });
        // Large enough not to be merged for being small.
        index_files.push(IndexFileFacts { id: id(&format!("index {number}")), blobs: 20_000 });
        builder.add(
            id(&format!("index {number}")),
            IndexFile { packs: vec![IndexedPack { id: id(&format!("pack {number}")), blobs }] },
        );
    }
    let index = Arc::new(builder.build());
    let marks = |kind| {
        let marks = Marks::new(index.entries(kind).len());
        needed.iter().filter_map(|name| index.position(kind, &id(name))).for_each(|at| assert!(marks.set(at)));
        marks
    };
    let (data, trees) = (marks(BlobType::Data), marks(BlobType::Tree));
    let snapshots = vec![Snapshot { id: id("snapshot"), file: SnapshotFile::default() }];
    let survey = Survey {
        snapshots,
        index,
        packs: facts,
        index_files,
        orphans: Vec::new(),
        findings: Findings::default(),
        unreadable: None,
    };
    Paper { survey, data, trees }
}

/// No packs are small, nothing unneeded may stay.
fn strict() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Bytes(0), pack_size: 0, tree_pack_size: 0, ..PruneOptions::default() }
}

impl Paper {
    fn try_plan(&self, options: &PruneOptions) -> Result<Plan> {
        let needed = Needed { data: &self.data, trees: &self.trees };
        decide(&self.survey, &ByPack::new(&self.survey.index), &needed, 2, Time::new(NOW, 0), options)
    }

    fn plan(&self, options: &PruneOptions) -> Plan {
        self.try_plan(options).expect("a plan")
    }
}

const DATA: BlobType = BlobType::Data;
const TREE: BlobType = BlobType::Tree;

#[test]
fn whole_packs_stay_empty_ones_go_the_rest_is_copied() {
    let paper = paper(
        &[(DATA, &[("a", 100), ("b", 100)]), (DATA, &[("c", 50)]), (DATA, &[("d", 70), ("e", 30)]), (TREE, &[("t", 10)])],
        &["a", "b", "d", "t"],
    );
    let plan = paper.plan(&strict());
    assert_eq!(plan.fates, [Fate::Keep, Fate::Delete, Fate::Repack, Fate::Keep]);
    assert_eq!(plan.replaced, [false, true, true, false]);
    let s = &plan.stats;
    assert_eq!((s.bytes_used, s.bytes_unused, s.bytes_unused_left, s.bytes_repacked), (280, 80, 0, 70));
    assert_eq!(s.bytes_deleted, 50 + 36 + 41 + 100 + 36 + 82);
    assert!(!plan.is_nothing());
    assert_eq!(plan.doomed(&paper.survey.index), [id("pack 1"), id("pack 2")]);
}

#[test]
fn a_clean_repository_needs_nothing() {
    let paper = paper(&[(DATA, &[("a", 100)]), (TREE, &[("t", 10)])], &["a", "t"]);
    let plan = paper.plan(&strict());
    assert!(plan.is_nothing(), "{:?}", plan.stats);
}

#[test]
fn unneeded_data_may_stay_up_to_the_limit_and_the_emptiest_pack_goes_first() {
    let packs: &[(BlobType, &[(&str, u32)])] =
        &[(DATA, &[("a", 900), ("x", 100)]), (DATA, &[("b", 300), ("y", 700)]), (DATA, &[("c", 600), ("z", 400)])];
    let paper = paper(packs, &["a", "b", "c"]);
    let fates = |max_unused| paper.plan(&PruneOptions { max_unused, ..strict() }).fates;
    assert_eq!(fates(MaxUnused::Unlimited), [Fate::Keep; 3]);
    assert_eq!(fates(MaxUnused::Bytes(500)), [Fate::Keep, Fate::Repack, Fate::Keep]);
    assert_eq!(fates(MaxUnused::Bytes(499)), [Fate::Keep, Fate::Repack, Fate::Repack]);
    // 10 % of what remains: 1800 of 2000.
    assert_eq!(fates(MaxUnused::Percent(10.0)), [Fate::Keep, Fate::Repack, Fate::Repack]);
    assert_eq!(fates(MaxUnused::Percent(0.0)), [Fate::Repack; 3]);
    let limited = paper.plan(&PruneOptions { max_repack: Some(900), ..strict() });
    assert_eq!(limited.fates, [Fate::Keep, Fate::Repack, Fate::Repack], "what fits is copied");
    assert_eq!((limited.stats.bytes_repacked, limited.stats.bytes_unused_left), (900, 100));
}

#[test]
fn of_copies_the_one_in_the_most_needed_pack_stays() {
    let paper = paper(&[(DATA, &[("a", 10), ("x", 90)]), (DATA, &[("a", 10), ("b", 500)]), (DATA, &[("a", 10)])], &["a", "b"]);
    let plan = paper.plan(&strict());
    assert_eq!(plan.fates, [Fate::Delete, Fate::Keep, Fate::Delete]);
    assert_eq!((plan.stats.bytes_used, plan.stats.bytes_unused), (510, 110));
}

#[test]
fn a_needed_blob_in_a_pack_that_is_missing_or_short_stops_everything() {
    for listed in [None, Some(7)] {
        let mut paper = paper(&[(DATA, &[("a", 100)]), (DATA, &[("x", 100)])], &["a"]);
        paper.survey.packs[0].listed = listed;
        let refused = paper.try_plan(&strict()).err().expect("refused");
        assert_eq!(refused.kind(), Kind::Corrupt);
        // Not needed, the same pack is only forgotten or deleted.
        let unneeded = Paper { data: Marks::new(2), ..paper };
        let plan = unneeded.plan(&strict());
        assert_eq!(plan.fates, [if listed.is_none() { Fate::Forget } else { Fate::Delete }, Fate::Delete]);
    }
}

#[test]
fn a_sound_copy_saves_a_blob_whose_other_pack_is_missing() {
    let mut paper = paper(&[(DATA, &[("a", 100), ("b", 900)]), (DATA, &[("a", 100)])], &["a"]);
    paper.survey.packs[0].listed = None;
    assert_eq!(paper.plan(&strict()).fates, [Fate::Forget, Fate::Keep]);
}

#[test]
fn mixed_packs_and_raw_trees_are_copied_even_if_all_is_needed() {
    let mut paper = paper(&[(DATA, &[("a", 100)]), (DATA, &[("b", 100)])], &["a", "b"]);
    paper.survey.packs[1].mixed = true;
    assert_eq!(paper.plan(&PruneOptions { max_unused: MaxUnused::Unlimited, ..strict() }).fates, [Fate::Keep, Fate::Repack]);
}

#[test]
fn small_packs_are_merged_once_they_fill_one() {
    let names: Vec<String> = (0..40).map(|n| format!("blob {n}")).collect();
    let needed: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = |count: usize, length: u32| {
        let blobs: Vec<[(&str, u32); 1]> = needed.iter().take(count).map(|n| [(*n, length)]).collect();
        let packs: Vec<(BlobType, &[(&str, u32)])> = blobs.iter().map(|b| (DATA, &b[..])).collect();
        paper(&packs, &needed[..count]).plan(&PruneOptions { pack_size: 1000, ..strict() }).stats.packs_repacked
    };
    assert_eq!(plan(7, 150), 0, "too few");
    assert_eq!(plan(8, 100), 0, "they do not fill one");
    assert_eq!(plan(8, 130), 8);
    assert_eq!(plan(32, 1), 32, "very many");
    assert_eq!(plan(40, 900), 0, "none is small");
}

#[test]
fn packs_in_no_index_go_when_they_are_old() {
    let mut paper = paper(&[(DATA, &[("a", 100)])], &["a"]);
    let orphan = |age: i64, size| Orphan { id: id(&format!("orphan {age}")), size, modified: Time::new(NOW - age, 0) };
    paper.survey.orphans = vec![orphan(3599, 5), orphan(3600, 7), orphan(-100, 11)];
    let plan = paper.plan(&PruneOptions { orphan_grace: Duration::from_secs(3600), ..strict() });
    assert_eq!(plan.orphans, [id("orphan 3600")]);
    assert_eq!((plan.stats.orphans_deleted, plan.stats.orphans_kept, plan.stats.bytes_deleted), (1, 2, 7));
}

#[test]
fn without_any_snapshot_nothing_is_done() {
    let mut paper = paper(&[(DATA, &[("a", 100)])], &[]);
    paper.survey.snapshots.clear();
    paper.survey.orphans = vec![Orphan { id: id("orphan"), size: 1, modified: Time::new(0, 0) }];
    let plan = paper.plan(&strict());
    assert!(plan.is_nothing() && plan.stats.held_back.is_some());
}

#[test]
fn packs_described_twice_and_many_small_index_files_lead_to_new_ones() {
    let mut paper = paper(&[(DATA, &[("a", 1)]), (DATA, &[("b", 1)])], &["a", "b"]);
    paper.survey.packs[1].repeated = true;
    assert_eq!(paper.plan(&strict()).replaced, [true, true]);
    paper.survey.packs[1].repeated = false;
    paper.survey.index_files =
        (0..9).map(|n| IndexFileFacts { id: id(&n.to_string()), blobs: if n < 8 { 5 } else { 40_000 } }).collect();
    assert_eq!(paper.plan(&strict()).replaced, [[true; 8].as_slice(), &[false]].concat());
    paper.survey.index_files[0].blobs = 30_000;
    assert!(paper.plan(&strict()).is_nothing());
}
