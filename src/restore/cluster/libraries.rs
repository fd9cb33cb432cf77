//! Libraries that decide how text is sorted: with other versions than those of the backup, indexes on text are wrong
//! without any error.

use std::time::Duration;

use crate::model::BaseBackup;
use crate::runtime::Cancel;
use crate::runtime::process::Program;

/// What deserves a look, of this machine against the backup's server.
#[must_use]
pub fn notes(facts: &BaseBackup, cancel: &Cancel) -> Vec<String> {
    compare(facts, libc_version(cancel).as_deref())
}

fn compare(facts: &BaseBackup, here: Option<&str>) -> Vec<String> {
    let mut notes = Vec::new();
    let remedy = "if the restored server runs with another version, REINDEX what sorts text, then ALTER COLLATION or ALTER DATABASE … REFRESH COLLATION VERSION";
    if let Some(was) = facts.collation_versions.get("libc") {
        match here {
            Some(here) if here == was => {}
            Some(here) => {
                notes.push(format!("the backup's server sorted text with libc {was}, this machine has {here}: {remedy}"))
            }
            None => notes.push(format!(
                "the backup's server sorted text with libc {was}; which one this machine has could not be found out: {remedy}"
            )),
        }
    }
    if let Some(was) = facts.collation_versions.get("icu") {
        notes.push(format!(
            "the backup's server sorted text with ICU collations of version {was}, which only a server can compare: {remedy}"
        ));
    }
    notes
}

/// Of glibc, as PostgreSQL tells it: `2.36`.
fn libc_version(cancel: &Cancel) -> Option<String> {
    let program = Program::new("getconf").arg("GNU_LIBC_VERSION").inherit(&["PATH"]).timeout(Some(Duration::from_secs(5)));
    let text = program.read(1000, cancel).ok()?;
    let text = String::from_utf8_lossy(&text);
    Some(text.trim().strip_prefix("glibc ")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_are_told_and_unknown_ones_too() {
        let with = |pairs: &[(&str, &str)]| {
            let mut facts = crate::restore::cluster::plan::tests::base(1, 1, 10, 10).facts;
            facts.collation_versions = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            facts
        };
        assert!(compare(&with(&[]), Some("2.36")).is_empty());
        assert!(compare(&with(&[("libc", "2.36")]), Some("2.36")).is_empty());
        assert!(compare(&with(&[("libc", "2.31")]), Some("2.36"))[0].contains("libc 2.31, this machine has 2.36"));
        assert!(compare(&with(&[("libc", "2.31")]), None)[0].contains("could not be found out"));
        assert!(compare(&with(&[("icu", "153.120")]), Some("2.36"))[0].contains("153.120"));
    }
}
