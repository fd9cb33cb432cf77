//! `strongroom ls`

use std::path::PathBuf;

use parking_lot::Mutex;
use std::sync::Arc;

use super::Done;
use super::args::Place;
use super::output;
use super::session::Session;
use crate::app::ls::{self, Entry};
use crate::app::select::{self, Reference};
use crate::error::Result;

/// List what is inside a snapshot
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// [TENANT[/JOB]:]ID or [TENANT[/JOB]:]latest
    snapshot: Reference,
    /// A directory or file inside the snapshot
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Everything below it too
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.snapshot.selector.as_ref())?;
    let found = select::find(&ctx, &a.snapshot).await?;
    output::warn(&found.warnings);
    if s.out.json {
        let all = Arc::new(Mutex::new(Vec::new()));
        let into = all.clone();
        let push = move |e: Entry| {
            into.lock().push(e);
            Ok(())
        };
        ls::run(&found, a.path, a.recursive, s.cancel.clone(), push).await?;
        let entries = std::mem::take(&mut *all.lock());
        s.out.print(&serde_json::json!({ "snapshot": found.snapshot.id, "entries": entries }), |_| {})?;
    } else {
        ls::run(&found, a.path, a.recursive, s.cancel.clone(), |e| output::write_stdout(line(&e).as_bytes())).await?;
    }
    Ok(Done::Ok)
}

fn line(e: &Entry) -> String {
    let kind = match e.kind {
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "dev" => 'b',
        "chardev" => 'c',
        _ => '-',
    };
    let target = e.target.as_ref().map_or(String::new(), |t| format!(" -> {}", t.escape_debug()));
    // Names may hold line ends and escape sequences; a list for people must not obey them.
    let path =
        e.path.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }).collect::<String>();
    format!("{kind}{} {:>5} {:>5} {:>12} {} {path}{target}\n", mode(e.mode), e.uid, e.gid, e.size, output::time(e.mtime))
}

/// `rwxr-s--t`.
fn mode(mode: u32) -> String {
    let mut out = String::new();
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn modes_look_like_those_of_ls() {
        for (bits, text) in
            [(0o755, "rwxr-xr-x"), (0o4755, "rwsr-xr-x"), (0o2644, "rw-r-Sr--"), (0o1777, "rwxrwxrwt"), (0, "---------")]
        {
            assert_eq!(super::mode(bits), text);
        }
    }
}
