//! A configuration from the command line alone: one repository, one tenant, at most one job.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::load::load_value;
use super::mistake::Mistakes;
use super::settings::Settings;

/// What the command line says about a repository and a job. Everything else has the defaults of a file, and
/// `STRONGROOM__…` variables apply as they do to one (`STRONGROOM__REPOSITORY__S3__ENDPOINT=…`).
#[derive(Debug, Clone, Default)]
pub struct AdHoc {
    /// The repository itself: a URL of a store, or a path.
    pub repository: String,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Or the environment variable that holds it.
    pub password_env: Option<String>,
    /// Default: `default`.
    pub tenant: Option<String>,
    /// Default: the kind of the source.
    pub job: Option<String>,
    /// What to back up; `None` for commands that only read.
    pub source: Option<AdHocSource>,
}

/// A source from the command line.
#[derive(Debug, Clone)]
pub enum AdHocSource {
    /// A directory, absolute.
    Volume {
        /// The directory.
        path: PathBuf,
        /// Globs left out.
        exclude: Vec<String>,
    },
    /// Databases of a server.
    PgDump {
        /// Connection URL.
        url: String,
        /// Names and patterns; empty means the URL's.
        databases: Vec<String>,
    },
    /// A program's standard output.
    Command {
        /// Program and arguments.
        run: Vec<String>,
        /// Name of the file in the snapshot.
        file: Option<String>,
    },
}

impl AdHocSource {
    /// The job's name where none is given.
    #[must_use]
    pub fn default_job(&self) -> &'static str {
        match self {
            Self::Volume { .. } => "volume",
            Self::PgDump { .. } => "pg-dump",
            Self::Command { .. } => "command",
        }
    }
}

impl AdHoc {
    /// Validates it as a file would be.
    ///
    /// # Errors
    /// Every mistake.
    pub fn settings(&self, environment: impl IntoIterator<Item = (String, String)>) -> Result<Settings, Mistakes> {
        load_value(self.tree(), environment)
    }

    fn tree(&self) -> Value {
        let mut repository = json!({ "url": url(&self.repository), "layout": "{root}" });
        match (&self.password_file, &self.password_env) {
            (Some(file), _) => put(&mut repository, "password", json!({ "file": file })),
            (None, Some(name)) => put(&mut repository, "password", json!({ "env": name })),
            (None, None) => {}
        }
        let mut jobs = json!({});
        if let Some(source) = &self.source {
            let name = self.job.as_deref().unwrap_or_else(|| source.default_job());
            put(&mut jobs, name, source.tree());
        }
        let mut tenants = json!({});
        put(&mut tenants, self.tenant.as_deref().unwrap_or("default"), json!({ "jobs": jobs }));
        json!({ "repository": repository, "tenants": tenants })
    }
}

impl AdHocSource {
    fn tree(&self) -> Value {
        match self {
            Self::Volume { path, exclude } => json!({ "volume": { "path": path, "exclude": exclude } }),
            Self::PgDump { url, databases } if databases.is_empty() => json!({ "pg_dump": { "url": url } }),
            Self::PgDump { url, databases } => json!({ "pg_dump": { "url": url, "databases": databases } }),
            Self::Command { run, file: None } => json!({ "command": { "run": run } }),
            Self::Command { run, file: Some(file) } => json!({ "command": { "run": run, "file": file } }),
        }
    }
}

fn put(table: &mut Value, key: &str, value: Value) {
    if let Some(table) = table.as_object_mut() {
        table.insert(key.to_owned(), value);
    }
}

/// A plain path is a local store.
fn url(text: &str) -> String {
    if text.contains("://") {
        return text.to_owned();
    }
    match std::path::absolute(Path::new(text)) {
        Ok(path) => format!("file://{}", path.display()),
        Err(_) => text.to_owned(),
    }
}
