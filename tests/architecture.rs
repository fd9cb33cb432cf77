//! The shape of the source, checked like behaviour: imports between rooms go only along the table below, files stay
//! readable, nothing on outside data may panic, and the text names no package registry and no developer's machine.
//!
//! A new arrow is a decision, not an accident: it is made by editing [`ARROWS`], in sight of a reviewer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing check should stop the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Room → the rooms it may use, besides [`GROUND`].
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["app", "config"]),
    (
        "app",
        &[
            "config",
            "crypto",
            "http",
            "kubernetes",
            "postgres",
            "repository",
            "restore",
            "retention",
            "schedule",
            "source",
            "store",
            "wal",
        ],
    ),
    // The settings types of the rooms (each room owns its own), and what checks a cron line or a rule.
    ("config", &["http", "postgres", "repository", "restore", "retention", "schedule", "source", "store", "wal"]),
    ("source", &["postgres"]),
    ("restore", &["postgres"]),
    ("repository", &["store", "crypto"]),
    ("wal", &["store", "crypto", "postgres"]),
    ("store", &[]),
    ("postgres", &[]),
    ("http", &[]),
    ("kubernetes", &[]),
    ("schedule", &[]),
    ("retention", &[]),
    ("crypto", &[]),
    // The ground itself: errors know nobody, plain types know errors, and running things knows both.
    ("error", &[]),
    ("model", &["error"]),
    ("runtime", &["error", "model"]),
];

/// What every room may use.
const GROUND: &[&str] = &["error", "model", "runtime"];

/// A file of source longer than this has more than one job. Tests are lists and may be longer.
const MAX_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir`, sorted, without what a build or a tool leaves there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let skipped = [".git", "target", ".cache", "__pycache__", "Cargo.lock"].iter().any(|s| name == *s);
            match entry.file_type().unwrap() {
                _ if skipped => {}
                t if t.is_dir() => open.push(entry.path()),
                t if t.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// One source file: its name below `src/`, the room it belongs to, and its text.
struct Source {
    name: String,
    room: String,
    /// How many modules deep it lies: `store/mod.rs` 1, `store/s3.rs` 2.
    depth: usize,
    text: String,
    is_test: bool,
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let of = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let modules: Vec<&str> = name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
        Source {
            room: modules[0].to_owned(),
            depth: modules.len(),
            is_test: modules.contains(&"tests"),
            text: std::fs::read_to_string(&path).unwrap(),
            name,
        }
    };
    files(&src).into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs")).map(of).collect()
}

/// The code of a file with every comment, string and character literal blanked out, line by line the same.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut blank = |from: usize, to: usize| out[from..to].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let before = at.checked_sub(1).map_or(b' ', |i| bytes[i]);
        let in_word = before.is_ascii_alphanumeric() || before == b'_';
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            find(rest, b"*/").map_or(rest.len(), |i| i + 2)
        } else if !in_word && let Some(length) = raw_string(rest) {
            length
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\'')) {
            // A character; anything else after a quote is a lifetime. Other alphabets do not matter here.
            1 + quoted_until(&rest[1..], b'\'')
        } else {
            at += 1;
            continue;
        };
        blank(at, at + length);
        at += length;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// The length of the raw string that starts here (`r"…"`, `br#"…"#`), if one does.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let start = if rest.starts_with(b"br") {
        2
    } else if rest.starts_with(b"r") {
        1
    } else {
        return None;
    };
    let hashes = rest[start..].iter().take_while(|b| **b == b'#').count();
    if rest.get(start + hashes) != Some(&b'"') {
        return None;
    }
    let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = start + hashes + 1;
    Some(find(&rest[body..], &end).map_or(rest.len(), |i| body + i + end.len()))
}

fn quoted(rest: &[u8]) -> usize {
    1 + quoted_until(&rest[1..], b'"')
}

fn quoted_until(rest: &[u8], end: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == end => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The code without its `#[cfg(test)]` items.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let end = match (out[start..].find('{'), out[start..].find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|s| open < s) => {
                let mut depth = 0usize;
                let close = out[start + open..].bytes().position(|b| {
                    depth = if b == b'{' {
                        depth + 1
                    } else if b == b'}' {
                        depth - 1
                    } else {
                        depth
                    };
                    depth == 0
                });
                start + open + close.expect("braces match") + 1
            }
            (_, Some(semicolon)) => start + semicolon + 1,
            _ => out.len(),
        };
        out.replace_range(start..end, "");
    }
    out
}

/// The names that directly follow `crate::`, in paths and in braces.
fn crate_uses(code: &str) -> BTreeSet<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.insert(word(rest));
            continue;
        }
        // `{a::{b, c}, d}`: the first word of each part at the outermost level.
        let mut depth = 0usize;
        let mut fresh = false;
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (c == '{' || c == ',') {
                fresh = true;
            } else if fresh && !c.is_whitespace() {
                found.insert(word(&rest[i..]));
                fresh = false;
            }
        }
    }
    found
}

/// Whether a chain of `super::` in this file climbs out of its room, where the table could not see it.
fn climbs_out(code: &str, depth: usize) -> bool {
    code.lines().any(|line| {
        // Indented lines may lie in an inline module, one deeper than the file.
        let depth = depth + usize::from(line.starts_with(' '));
        let chain = "super::".repeat(depth);
        line.contains(&chain)
    })
}

#[track_caller]
fn assert_none(problems: &[String], advice: &str) {
    assert!(problems.is_empty(), "\n  {}\n{advice}\n", problems.join("\n  "));
}

#[test]
fn imports_follow_the_table() {
    let mut problems = Vec::new();
    for file in sources().iter().filter(|f| !["main", "lib"].contains(&f.room.as_str())) {
        let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| *room == file.room) else {
            problems.push(format!("src/{}: room `{}` is not in the table", file.name, file.room));
            continue;
        };
        let code = code_only(&file.text);
        let ground = if GROUND.contains(&file.room.as_str()) { &[] } else { GROUND };
        for used in crate_uses(&code) {
            if used != file.room && !allowed.contains(&used.as_str()) && !ground.contains(&used.as_str()) {
                problems.push(format!("src/{}: {} → {used}", file.name, file.room));
            }
        }
        if climbs_out(&code, file.depth) {
            problems.push(format!("src/{}: climbs out of its room by super::; say crate:: instead", file.name));
        }
    }
    assert_none(
        &problems,
        "These imports are not in the table of rooms (tests/architecture.rs): move the code, or the type it needs to model/.",
    );
}

#[test]
fn files_stay_readable() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|f| !f.is_test)
        .map(|f| (f.text.lines().count(), &f.name))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, name)| format!("src/{name}: {lines} lines"))
        .collect();
    assert_none(&long, &format!("A file has one job and at most {MAX_LINES} lines; long tests go to tests.rs beside it."));
}

#[test]
fn nothing_panics_on_purpose() {
    let mut problems = Vec::new();
    for file in sources().iter().filter(|f| !f.is_test) {
        let code = without_tests(&code_only(&file.text));
        for banned in [".unwrap()", "todo!(", "unimplemented!(", "dbg!("] {
            if code.contains(banned) {
                problems.push(format!("src/{}: {banned}", file.name));
            }
        }
    }
    assert_none(&problems, "Return an error::Error that says what failed and what to do.");
}

#[test]
fn the_text_names_no_machine_and_no_registry() {
    // Written in halves, so that this file does not contain them.
    let banned = [
        ["/wo", "rk/"],
        ["/ro", "ot/."],
        ["deb.deb", "ian.org"],
        ["pypi.o", "rg"],
        ["pythonhos", "ted.org"],
        ["registry.npm", "js.org"],
        ["static.cra", "tes.io"],
        ["index.cra", "tes.io"],
        ["proxy.gol", "ang.org"],
        ["apt.postgr", "esql.org"],
    ]
    .map(|halves| halves.concat());
    let mut problems = Vec::new();
    for path in files(root()) {
        // What is not text has nothing to say.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for word in &banned {
            if text.contains(word.as_str()) {
                problems.push(format!("{}: {word}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert_none(&problems, "Use each package client as the machine has it set up, by package name, and no path of one machine.");
}

/// The scanner is code too: what it must see and what it must not.
mod scanner {
    use super::*;

    #[test]
    fn code_only_blanks_comments_and_literals() {
        let text = "a /* x */ \"crate::b \\\" c\" r#\"crate::d\"# '\"' 'x: &'a str // crate::e\nf";
        let code = code_only(text);
        assert_eq!(code.len(), text.len());
        assert!(!code.contains("crate"), "{code}");
        assert!(code.contains("&'a str") && code.ends_with("\nf"), "{code}");
    }

    #[test]
    fn crate_uses_sees_paths_and_braces() {
        let code = "use crate::{model::{Id, Time}, store, error::Error};\nlet x = crate::wal::Segment; mycrate::no; $crate::no";
        let names: Vec<String> = crate_uses(code).into_iter().collect();
        assert_eq!(names, ["error", "model", "store", "wal"]);
    }

    #[test]
    fn climbing_is_seen() {
        assert!(climbs_out("use super::store;", 1));
        assert!(!climbs_out("use super::keys;", 2));
        assert!(climbs_out("use super::super::store;", 2));
        assert!(!climbs_out("mod tests {\n    use super::*;", 1));
    }

    #[test]
    fn test_modules_are_left_out() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c.unwrap() } }\n#[cfg(test)]\nmod more;\nfn d() {}";
        let rest = without_tests(code);
        assert!(!rest.contains("unwrap") && !rest.contains("more") && rest.contains("fn d"), "{rest}");
    }
}
