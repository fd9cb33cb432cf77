//! What tells a restored cluster how far to recover: lines of `postgresql.auto.conf` and a signal file, as PostgreSQL 12
//! and later (so 13 to 18 alike) want them.
//!
//! A cluster that was itself restored once, and backed up since, brings the settings of that recovery along. Two targets
//! at once keep a server from starting, so [`auto_conf`] takes everything of former recoveries out before it adds ours, and
//! [`commented`] does the same for the `postgresql.conf`.

use std::fmt;

use crate::model::{Lsn, Time, Timeline};

/// Where recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At the end of the log.
    End,
    /// As soon as the cluster is consistent: the end of the base backup.
    Immediate,
    /// At this time, by the time stamps of commits.
    Time(Time),
    /// At this position.
    Lsn(Lsn),
    /// With this transaction. Compared in its order of commits, not of numbers.
    Xid(u64),
    /// At a restore point, made with `pg_create_restore_point()`.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => f.write_str("the end of the log"),
            Self::Immediate => f.write_str("the end of the base backup"),
            Self::Time(time) => write!(f, "time {time}"),
            Self::Lsn(lsn) => write!(f, "position {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point `{name}`"),
        }
    }
}

/// Which line of history recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowTimeline {
    /// The newest that the archive has by then.
    Latest,
    /// That of the base backup.
    Current,
    /// This one.
    Number(Timeline),
}

/// What happens when the target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The server waits, readable, for `pg_wal_replay_resume()`, which promotes it.
    Pause,
    /// It begins a new timeline and takes writes.
    Promote,
    /// It stops. `recovery.signal` stays, so that it goes on when it is started with another target.
    Shutdown,
}

/// Recovery from an archive.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Fetches a file: a command of the shell with `%f` and `%p`.
    pub restore_command: String,
    /// Where it ends.
    pub target: Target,
    /// Whether the target itself is still in. For time, position and transaction; the others have no choice.
    pub inclusive: bool,
    /// Which timeline.
    pub timeline: FollowTimeline,
    /// What then.
    pub action: Action,
}

/// Settings that belong to a recovery: those of a former one must not stay.
const OF_RECOVERY: [&str; 11] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
];

impl Recovery {
    /// Names and values, not quoted.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("restore_command", self.restore_command.clone())];
        let timeline = match self.timeline {
            FollowTimeline::Latest => "latest".to_owned(),
            FollowTimeline::Current => "current".to_owned(),
            FollowTimeline::Number(timeline) => timeline.to_string(),
        };
        lines.push(("recovery_target_timeline", timeline));
        match &self.target {
            Target::End => return lines,
            Target::Immediate => lines.push(("recovery_target", "immediate".to_owned())),
            Target::Time(time) => lines.push(("recovery_target_time", time_text(*time))),
            Target::Lsn(lsn) => lines.push(("recovery_target_lsn", lsn.to_string())),
            Target::Xid(xid) => lines.push(("recovery_target_xid", xid.to_string())),
            Target::Name(name) => lines.push(("recovery_target_name", name.clone())),
        }
        if matches!(self.target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_)) {
            lines.push(("recovery_target_inclusive", self.inclusive.to_string()));
        }
        let action = match self.action {
            Action::Pause => "pause",
            Action::Promote => "promote",
            Action::Shutdown => "shutdown",
        };
        lines.push(("recovery_target_action", action.to_owned()));
        lines
    }
}

/// A time as `recovery_target_time` takes it, whatever the server's own zone: with an offset in numbers, and to the
/// microsecond, which is all that commits carry.
fn time_text(time: Time) -> String {
    let whole = Time { nanos: time.nanos / 1000 * 1000, ..time }.to_string();
    format!("{}+00", whole.trim_end_matches('Z').replace('T', " "))
}

/// A value of a configuration file, quoted: quotes doubled, backslashes too, since the server reads escapes.
#[must_use]
pub fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('\'');
    for c in value.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            _ => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// One word of a `restore_command`: quoted for the shell, and with `%` doubled, which the server reads first.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let word = word.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The `postgresql.auto.conf` of a restored cluster: the old one without `settings` and without any setting of a former
/// recovery, then `settings` in their order.
#[must_use]
pub fn auto_conf(old: &str, settings: &[(&str, String)]) -> String {
    let replaced = |name: &str| is_of_recovery(name) || settings.iter().any(|(s, _)| s.eq_ignore_ascii_case(name));
    let mut out = String::from(
        "# Do not edit this file manually!\n# It will be overwritten by the ALTER SYSTEM command.\n# The last lines were added when this cluster was restored.\n",
    );
    for line in old.lines().filter(|l| !l.trim_start().starts_with('#') && !l.trim().is_empty()) {
        if !setting_of(line).is_some_and(replaced) {
            out.push_str(line);
            out.push('\n');
        }
    }
    for (name, value) in settings {
        out.push_str(&format!("{name} = {}\n", quote(value)));
    }
    out
}

/// A configuration file with every line that belongs to a former recovery, or that `hit` picks by name (in lower case) and
/// value, made a comment; `None` if there is no such line. Returns the names too.
#[must_use]
pub fn commented(text: &str, hit: impl Fn(&str, &str) -> bool) -> Option<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let name = setting_of(line).map(str::to_ascii_lowercase);
        if let Some(name) = name.filter(|name| is_of_recovery(name) || hit(name, &value_of(line))) {
            found.push(name);
            out.push_str("# by strongroom restore: ");
        }
        out.push_str(line);
    }
    (!found.is_empty()).then_some((out, found))
}

/// Whether a configuration file sets this, itself.
#[must_use]
pub fn sets(text: &str, name: &str) -> bool {
    text.lines().any(|line| setting_of(line).is_some_and(|s| s.eq_ignore_ascii_case(name)))
}

fn is_of_recovery(name: &str) -> bool {
    OF_RECOVERY.iter().any(|r| r.eq_ignore_ascii_case(name))
}

/// The name that a line sets, if it sets one.
fn setting_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(line.len());
    line.get(..end).filter(|name| !name.is_empty())
}

/// The value that a line sets, without quotes; escapes in it are left as they are.
fn value_of(line: &str) -> String {
    let line = line.trim_start();
    let rest = line.strip_prefix(setting_of(line).unwrap_or_default()).unwrap_or_default();
    let rest = rest.trim_start_matches([' ', '\t', '=']);
    match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next().unwrap_or_default().to_owned(),
        None => rest.split([' ', '\t', '#', '\r', '\n']).next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery(target: Target) -> Recovery {
        Recovery {
            restore_command: "x %f".into(),
            target,
            inclusive: false,
            timeline: FollowTimeline::Number(Timeline(7)),
            action: Action::Pause,
        }
    }

    #[test]
    fn each_target_has_its_own_line_and_no_other() {
        let time: Time = "2026-11-21T02:00:00.123456789Z".parse().unwrap();
        let cases: [(Target, &[&str]); 6] = [
            (Target::End, &[]),
            (Target::Immediate, &["recovery_target=immediate", "recovery_target_action=pause"]),
            (
                Target::Time(time),
                &[
                    "recovery_target_time=2026-11-21 02:00:00.123456+00",
                    "recovery_target_inclusive=false",
                    "recovery_target_action=pause",
                ],
            ),
            (
                Target::Lsn(Lsn(0x16_0000_0028)),
                &["recovery_target_lsn=16/28", "recovery_target_inclusive=false", "recovery_target_action=pause"],
            ),
            (Target::Xid(777), &["recovery_target_xid=777", "recovery_target_inclusive=false", "recovery_target_action=pause"]),
            (Target::Name("x'y".into()), &["recovery_target_name=x'y", "recovery_target_action=pause"]),
        ];
        for (target, wanted) in cases {
            let lines: Vec<String> = recovery(target).settings().into_iter().map(|(n, v)| format!("{n}={v}")).collect();
            assert_eq!(lines[..2], ["restore_command=x %f", "recovery_target_timeline=7"]);
            assert_eq!(lines[2..], *wanted);
        }
    }

    #[test]
    fn former_recoveries_leave_nothing() {
        let old = "# c\nrecovery_target_xid = '5'\nwork_mem = '1MB'\n Restore_Command='a'\narchive_mode = 'on'\n";
        let new = auto_conf(old, &[("archive_mode", "off".into()), ("restore_command", "a 'b' \\".into())]);
        assert!(new.ends_with("work_mem = '1MB'\narchive_mode = 'off'\nrestore_command = 'a ''b'' \\\\'\n"), "{new}");
        assert!(!new.contains("xid") && new.matches("estore_command").count() == 1, "{new}");
        let conf = "port = 1\nrecovery_target_time = 'x' # y\n#recovery_target = 'immediate'\ndata_directory = '/x'";
        let (text, names) = commented(conf, |_, _| false).unwrap();
        assert_eq!(names, ["recovery_target_time"]);
        assert!(text.contains("port = 1\n# by strongroom restore: recovery_target_time = 'x' # y\n"), "{text}");
        let by_value = |name: &str, value: &str| name == "data_directory" && value == "/x";
        assert_eq!(commented(conf, by_value).unwrap().1, ["recovery_target_time", "data_directory"]);
        assert!(commented("port = 1\n", by_value).is_none());
        assert_eq!((value_of("a b # c").as_str(), value_of("a='b c'").as_str(), value_of("a").as_str()), ("b", "b c", ""));
    }

    #[test]
    fn words_survive_the_shell_and_the_server() {
        assert_eq!(shell_word("/usr/bin/strongroom"), "/usr/bin/strongroom");
        assert_eq!(shell_word("/a b/100%/it's"), "'/a b/100%%/it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
