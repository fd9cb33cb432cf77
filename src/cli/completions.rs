//! `strongroom completions`

use clap_complete::Shell;

use super::{Done, output};
use crate::error::Result;

/// Print shell completions: `strongroom completions bash > /etc/bash_completion.d/strongroom`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(a: &Args, command: &mut clap::Command) -> Result<Done> {
    let mut text = Vec::new();
    clap_complete::generate(a.shell, command, "strongroom", &mut text);
    output::write_stdout(&text)?;
    Ok(Done::Ok)
}
