//! A snapshot's file into the standard input of a program; its exit status decides.
//!
//! The program is named on the command line by whoever restores, not by a configuration, so nothing has to allow it. Its
//! standard output is thrown away, its standard error is logged at debug level and quoted when it fails.

use std::io::{self, Read, Write as _};
use std::time::Duration;

use super::file::read_some;
use crate::error::{Context, Error, Kind, Result};
use crate::runtime::Cancel;
use crate::runtime::process::{INHERITED, Input, Program};

const BUFFER: usize = 1 << 20;

/// Feeds the program (and its arguments) and waits for it. Returns the number of bytes it took.
///
/// # Errors
/// The program is missing, failed, or stopped reading before the end although it succeeded; reading the snapshot failed;
/// [`Kind::Cancelled`].
pub fn feed(from: &mut dyn Read, run: &[String], timeout: Option<Duration>, cancel: &Cancel) -> Result<u64> {
    let Some((path, args)) = run.split_first().filter(|(p, _)| !p.is_empty()) else {
        return Err(Error::new(Kind::Usage, "the command is empty"));
    };
    let program = Program::new(path).args(args).inherit(INHERITED).timeout(timeout).with_input().without_output();
    let name = program.name();
    let doing = || format!("restore into {name}");
    let mut child = program.start(cancel).context(doing)?;
    let Some(mut input) = child.take_input() else { return Err(Error::new(Kind::Bug, doing())) };
    let (total, refused) = match pour(from, &mut input) {
        Ok(poured) => poured,
        Err(e) => {
            // Its input stays open until it is gone: it must not take half for the whole.
            child.stop();
            if let Err(ended) = child.wait().into_result() {
                tracing::debug!("{name}: {}", ended.chain());
            }
            return Err(e.context(doing()));
        }
    };
    drop(input);
    child.wait().into_result().context(doing)?;
    if refused {
        return Err(Error::new(Kind::Incomplete, format!("{name} succeeded without reading all of its input"))
            .hint("Use a program that reads standard input to its end."));
    }
    Ok(total)
}

/// Returns the number of bytes that were taken, and whether no more were.
fn pour(from: &mut dyn Read, input: &mut Input) -> Result<(u64, bool)> {
    let mut buffer = vec![0u8; BUFFER];
    let mut total = 0u64;
    while let Some(part) = read_some(from, &mut buffer)? {
        match input.write_all(part) {
            Ok(()) => total = total.saturating_add(part.len() as u64),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok((total, true)),
            Err(e) => return Err(e).context(|| "write to its input"),
        }
    }
    Ok((total, false))
}
