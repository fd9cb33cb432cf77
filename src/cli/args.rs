//! Arguments that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Before or after every command.
#[derive(Debug, Clone, Args)]
pub(super) struct Global {
    /// Configuration file (YAML, TOML or JSON). Default: ./strongroom.yaml, then /etc/strongroom/strongroom.yaml
    #[arg(long, global = true, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// How logs are written to standard error
    #[arg(long, global = true, env = "STRONGROOM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
    /// More logs; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Only warnings, errors and results
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Let the configuration run programs: hooks, `command` jobs and secrets
    #[arg(long, global = true, env = "STRONGROOM_ALLOW_COMMANDS", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub(super) allow_commands: bool,
    /// Let tokens of Azure identities be sent to this endpoint too; may be repeated
    #[arg(long, global = true, env = "STRONGROOM_TRUST_ENDPOINTS", value_delimiter = ',', value_name = "URL")]
    pub(super) trust_endpoint: Vec<String>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// A repository without a configuration file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Without a configuration file")]
pub(super) struct Place {
    /// The repository itself: file:///path, s3://bucket/prefix, azblob://container/prefix or a path. Settings of the
    /// store come from STRONGROOM__REPOSITORY__… variables
    #[arg(long, env = "STRONGROOM_REPOSITORY", value_name = "URL")]
    pub(super) repository: Option<String>,
    /// File that holds the repository's password
    #[arg(long, env = "STRONGROOM_PASSWORD_FILE", value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// Environment variable that holds it; STRONGROOM_PASSWORD is used where neither is given
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    pub(super) password_env: Option<String>,
}
