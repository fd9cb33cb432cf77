//! `strongroom config`

use clap::Subcommand;

use super::{Done, output, session::Session};
use crate::config::{self, Mistakes};
use crate::error::{Error, Kind, Result};

/// Look at the configuration
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Report every mistake of the configuration; exit code 78 if there is one
    Check,
    /// Print the JSON Schema
    Schema,
    /// Print a commented file that works as it is
    Example,
}

pub(super) fn run(s: &Session, a: Args) -> Result<Done> {
    match a.what {
        What::Check => check(s),
        What::Schema => {
            let text = serde_json::to_string_pretty(&config::schema())
                .map_err(|e| Error::new(Kind::Bug, "write the schema").because(e))?;
            output::write_stdout(format!("{text}\n").as_bytes())?;
            Ok(Done::Ok)
        }
        What::Example => {
            output::write_stdout(config::EXAMPLE.as_bytes())?;
            Ok(Done::Ok)
        }
    }
}

fn check(s: &Session) -> Result<Done> {
    let path = s.config_path()?;
    let settings = match s.load(&path) {
        Ok(settings) => settings,
        Err(mistakes) => {
            let Mistakes(list) = &mistakes;
            if s.out.json {
                s.out.print(&serde_json::json!({ "ok": false, "file": path, "mistakes": list }), |_| {})?;
            } else {
                output::print_error(&mistakes.into(), false);
            }
            return Ok(Done::Said(Kind::Config));
        }
    };
    let jobs: usize = settings.tenants.values().map(|t| t.jobs.len() + t.wal.len()).sum();
    let answer = serde_json::json!({
        "ok": true, "file": path, "environment": settings.environment, "tenants": settings.tenants.len(), "jobs": jobs, "commands": settings.commands, "mistakes": [],
    });
    s.out.print(&answer, |t| {
        output::say!(t, "{}: ok, tenants: {}, jobs: {jobs}", path.display(), settings.tenants.len());
        for command in &settings.commands {
            output::say!(t, "runs a program (needs --allow-commands): {command}");
        }
    })?;
    Ok(Done::Ok)
}
