//! Globs that choose entries of a volume, at backup and at restore.

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::error::{Error, Kind, Result};

/// A list of globs, in the manner of `.gitignore`, relative to the volume:
///
/// * without a `/` (but at the end) it matches a name at any depth: `*.tmp`, `node_modules`;
/// * with one it is anchored: `cache/**` is everything in the volume's `cache`, `/*.log` the logs at the top only;
/// * with a `/` at the end it matches directories only;
/// * `*` and `?` do not match `/`, `**` does; `[a-z]`, `{a,b}` and a backslash before a special character work;
/// * case matters, and names are matched as bytes: `?` is one byte.
///
/// What is below a matched directory counts as matched. There is no negation.
#[derive(Debug, Clone)]
pub struct Globs {
    any: GlobSet,
    dirs: GlobSet,
    /// For each anchored glob its leading segments, to know whether it can match below a directory. `None`: anywhere.
    ways: Vec<Option<Vec<GlobMatcher>>>,
}

impl Globs {
    /// `None` for an empty list.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the first bad glob.
    pub fn build(globs: &[String]) -> Result<Option<Self>> {
        if globs.is_empty() {
            return Ok(None);
        }
        let (mut any, mut dirs, mut ways) = (GlobSetBuilder::new(), GlobSetBuilder::new(), Vec::new());
        for text in globs {
            let bad = |why: &dyn std::fmt::Display| Error::new(Kind::Config, format!("`{text}` is not a glob: {why}"));
            let body = text.strip_suffix('/').unwrap_or(text);
            let anchored = body.contains('/');
            let body = body.strip_prefix('/').unwrap_or(body);
            if body.is_empty() {
                return Err(bad(&"it names the volume itself"));
            }
            if body.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
                return Err(bad(&"it has an empty, `.` or `..` segment"));
            }
            if body.starts_with('!') {
                return Err(bad(&"there is no negation; use `include`, or write `[!]` for the character"));
            }
            let full = if anchored { body.to_owned() } else { format!("**/{body}") };
            let glob = one(&full).map_err(|e| bad(&e))?;
            if text.ends_with('/') {
                dirs.add(glob)
            } else {
                any.add(glob)
            };
            ways.push(if anchored { Some(segments(body)) } else { None });
        }
        let set = |builder: GlobSetBuilder| {
            builder.build().map_err(|e| Error::new(Kind::Config, "the globs are too many or too large").because(e))
        };
        Ok(Some(Self { any: set(any)?, dirs: set(dirs)?, ways }))
    }

    /// Whether one of them matches this very entry. `path` is relative to the volume.
    #[must_use]
    pub fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        let candidate = globset::Candidate::from_bytes(path);
        self.any.is_match_candidate(&candidate) || (is_dir && self.dirs.is_match_candidate(&candidate))
    }

    /// Whether one of them matches this entry or a directory above it.
    #[must_use]
    pub fn matches_or_contains(&self, path: &[u8], is_dir: bool) -> bool {
        let above = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| path.get(..i).unwrap_or_default());
        self.matches(path, is_dir) || above.into_iter().any(|p| self.matches(p, true))
    }

    /// Whether one of them could match something below this directory.
    #[must_use]
    pub fn may_match_below(&self, path: &[u8]) -> bool {
        self.ways.iter().any(|way| {
            let Some(way) = way else { return true };
            // A way that ends early ended in `**`.
            path.split(|b| *b == b'/')
                .zip(way)
                .all(|(segment, glob)| glob.is_match_candidate(&globset::Candidate::from_bytes(segment)))
        })
    }
}

fn one(glob: &str) -> std::result::Result<globset::Glob, globset::Error> {
    GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build()
}

/// Matchers of the leading segments of an anchored glob, up to the first `**` or a segment that does not stand alone.
fn segments(glob: &str) -> Vec<GlobMatcher> {
    let whole = |s: &&str| !s.contains("**") && !s.contains(['{', '[']);
    glob.split('/').take_while(whole).map_while(|s| one(s).ok()).map(|g| g.compile_matcher()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(list: &[&str]) -> Globs {
        let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        Globs::build(&list).expect("good globs").expect("not empty")
    }

    #[test]
    fn slashes_anchor_and_names_match_anywhere() {
        let table: &[(&str, &str, bool)] = &[
            ("*.tmp", "a.tmp", true),
            ("*.tmp", "deep/er/a.tmp", true),
            ("*.tmp", "a.tmp.keep", false),
            ("/*.tmp", "a.tmp", true),
            ("/*.tmp", "deep/a.tmp", false),
            ("cache/**", "cache/x", true),
            ("cache/**", "cache/x/y", true),
            ("cache/**", "cache", false),
            ("cache/**", "other/cache/x", false),
            ("**/cache/**", "other/cache/x", true),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/b/c", false),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/b/b/c", true),
            ("{x,y}.log", "d/y.log", true),
            ("[a-c]1", "b1", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("Case", "case", false),
        ];
        for (glob, path, wanted) in table {
            assert_eq!(globs(&[glob]).matches(path.as_bytes(), false), *wanted, "{glob} on {path}");
        }
        assert!(globs(&["a?b"]).matches(b"a\xffb", false), "names are bytes");
    }

    #[test]
    fn a_slash_at_the_end_means_directories() {
        let g = globs(&["logs/"]);
        assert!(g.matches(b"a/logs", true) && !g.matches(b"a/logs", false));
        assert!(g.matches_or_contains(b"a/logs/today", false));
    }

    #[test]
    fn directories_on_the_way_are_known() {
        let g = globs(&["data/*/keep/**", "/top"]);
        for (dir, wanted) in
            [("data", true), ("data/x", true), ("data/x/keep", true), ("data/x/other", false), ("else", false), ("top", true)]
        {
            assert_eq!(g.may_match_below(dir.as_bytes()), wanted, "{dir}");
        }
        assert!(globs(&["*.txt"]).may_match_below(b"anything"));
    }

    #[test]
    fn bad_globs_are_config_errors() {
        for bad in ["", "/", "a//b", "../a", "a/./b", "[", "!keep", "{a"] {
            let list = vec![bad.to_owned()];
            let e = Globs::build(&list).expect_err(bad);
            assert_eq!(e.kind(), Kind::Config, "{bad}");
        }
    }
}
