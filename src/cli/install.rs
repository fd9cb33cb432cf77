//! `strongroom install`

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Done;
use super::output::say;
use super::session::Session;
use crate::error::{Context, Error, Kind, Result};

/// Name of the client.
const CLIENT: &str = "strongroom-client";
/// Where it is kept, seen from the directory of this program.
const PLACES: [&str; 2] = [".", "../lib/strongroom"];

/// Copy the client for the database's container into a directory both containers share
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory; the client is called strongroom-client there
    #[arg(long, value_name = "DIR")]
    client: PathBuf,
}

pub(super) fn run(s: &Session, a: &Args) -> Result<Done> {
    let from = find()?;
    let to = a.client.join(CLIENT);
    copy(&from, &to).context(|| format!("install {}", to.display()))?;
    s.out.print(&json!({ "client": to }), |t| say!(t, "installed {}", to.display()))?;
    Ok(Done::Ok)
}

fn find() -> Result<PathBuf> {
    let own = std::env::current_exe().context(|| "find this program")?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let places = PLACES.map(|p| dir.join(p).join(CLIENT));
    places.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        Error::new(Kind::NotFound, format!("{CLIENT} is in none of its places: {}", places.join(", ")))
            .hint("The container image has it. To build it: cargo build --release -p strongroom-client.")
    })
}

/// Whole or not at all, also over one that is running.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_file_name(format!(".{CLIENT}.{}", std::process::id()));
    let done = fs::copy(from, &fresh)
        .and_then(|_| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::File::open(&fresh)?.sync_all())
        .and_then(|()| fs::rename(&fresh, to));
    if done.is_err() {
        // Half of it is of no use.
        fs::remove_file(&fresh).ok();
    }
    done.context(|| format!("copy {}", from.display()))
}
