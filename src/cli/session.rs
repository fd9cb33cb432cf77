//! What a command gets: the global arguments, the configuration they lead to, and a way to answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Global, Place};
use super::output::Out;
use crate::app::Context;
use crate::config::{self, AdHoc, AdHocSource, Settings};
use crate::error::{Error, Kind, Result};
use crate::model::Selector;
use crate::runtime::{Cancel, SystemClock};

/// Where a configuration is looked for when none is named.
const USUAL_PLACES: [&str; 2] = ["strongroom.yaml", "/etc/strongroom/strongroom.yaml"];

/// The first usual place that exists.
pub(super) fn usual_config() -> Option<PathBuf> {
    USUAL_PLACES.iter().map(PathBuf::from).find(|p| p.exists())
}

/// One invocation.
pub(super) struct Session {
    pub(super) global: Global,
    pub(super) cancel: Cancel,
    pub(super) out: Out,
}

/// The part of an ad-hoc job that is not the repository.
#[derive(Debug, Default)]
pub(super) struct AdHocJob {
    pub(super) tenant: Option<String>,
    pub(super) job: Option<String>,
    pub(super) source: Option<AdHocSource>,
}

impl Session {
    pub(super) fn new(global: Global, cancel: Cancel) -> Self {
        let out = Out { json: global.json };
        Self { global, cancel, out }
    }

    /// The configuration file: as named, else the first usual place that exists.
    pub(super) fn config_path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.global.config {
            return Ok(path.clone());
        }
        usual_config().ok_or_else(|| {
            Error::new(Kind::Usage, "there is no configuration").hint(
                "Name the file with --config or STRONGROOM_CONFIG, or name a repository with --repository and --password-file; `strongroom config example` prints a file to start from.",
            )
        })
    }

    /// The configuration file and the environment.
    pub(super) fn load(&self, path: &Path) -> Result<Settings, config::Mistakes> {
        config::load(path, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
    }

    /// A context for commands that only need a repository.
    pub(super) fn context(&self, place: &Place, selector: Option<&Selector>) -> Result<Context> {
        let job = AdHocJob { tenant: selector.map(|s| s.tenant.to_string()), ..AdHocJob::default() };
        self.context_for(place, job)
    }

    /// As [`Session::context`], with the one job of an ad-hoc backup.
    pub(super) fn context_for(&self, place: &Place, job: AdHocJob) -> Result<Context> {
        let settings = match &place.repository {
            None => {
                if place.password_file.is_some() && self.global.config.is_none() {
                    return Err(Error::new(Kind::Usage, "--password-file without --repository").hint("Add --repository URL."));
                }
                self.load(&self.config_path()?)?
            }
            Some(_) if self.global.config.is_some() && std::env::var_os("STRONGROOM_CONFIG").is_none() => {
                return Err(Error::new(Kind::Usage, "--config and --repository exclude each other"));
            }
            Some(repository) => self.ad_hoc(repository, place, job)?,
        };
        Ok(Context::new(settings, Arc::new(SystemClock), self.cancel.clone()))
    }

    fn ad_hoc(&self, repository: &str, place: &Place, job: AdHocJob) -> Result<Settings> {
        let default_env = "STRONGROOM_PASSWORD";
        let password_env = place.password_env.clone().or_else(|| std::env::var_os(default_env).map(|_| default_env.to_owned()));
        if place.password_file.is_none()
            && password_env.is_none()
            && std::env::vars_os().all(|(k, _)| !k.to_string_lossy().starts_with("STRONGROOM__REPOSITORY__PASSWORD__"))
        {
            return Err(Error::new(Kind::Usage, "there is no password for the repository")
                .hint("Add --password-file FILE, --password-env NAME, or set STRONGROOM_PASSWORD."));
        }
        let adhoc = AdHoc {
            repository: repository.to_owned(),
            password_file: place.password_file.clone(),
            password_env,
            tenant: job.tenant,
            job: job.job,
            source: job.source,
        };
        // What is wrong here was written on the command line or in a variable, so it is a mistake of usage.
        adhoc
            .settings(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
            .map_err(|m| Error::from(m).with_kind(Kind::Usage))
    }
}
