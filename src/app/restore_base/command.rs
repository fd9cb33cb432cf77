//! The `restore_command` of a restored server.

use std::path::PathBuf;

use super::super::Context;
use crate::error::{Error, Kind, Result};
use crate::model::TenantName;
use crate::postgres::recovery::shell_word;

/// How the restored server gets its WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// With this program, called as this process was called, for the `pg_wal` job of the cluster.
    Program {
        /// Absolute path of the program.
        program: PathBuf,
        /// Arguments in front of the command: which configuration.
        arguments: Vec<String>,
    },
    /// With a command of the user's, as it is.
    Given(String),
    /// Not at all: from the log in the snapshot only.
    Never,
}

impl Fetch {
    /// The command, if the WAL of this cluster can be fetched.
    ///
    /// # Errors
    /// [`Kind::Failed`] for paths that are not UTF-8: a configuration file cannot hold them.
    pub(super) fn command(&self, ctx: &Context, tenant: &TenantName, cluster: &str, standby: bool) -> Result<Option<String>> {
        let (program, arguments) = match self {
            Self::Never => return Ok(None),
            Self::Given(command) => return Ok(Some(command.clone())),
            Self::Program { program, arguments } => (program, arguments),
        };
        let job = ctx.tenant(tenant)?.wal.values().find(|job| job.settings.cluster == cluster);
        let Some(job) = job else { return Ok(None) };
        let program = program
            .to_str()
            .ok_or_else(|| Error::new(Kind::Failed, format!("the path of this program is not UTF-8: {}", program.display())))?;
        let mut words = vec![shell_word(program)];
        words.extend(arguments.iter().map(|a| shell_word(a)));
        words.extend(["wal", "fetch", "%f", "\"%p\"", "--job"].map(str::to_owned));
        words.push(shell_word(&format!("{tenant}/{}", job.name)));
        if standby {
            words.extend(["--mode", "standby"].map(str::to_owned));
        }
        Ok(Some(words.join(" ")))
    }
}
