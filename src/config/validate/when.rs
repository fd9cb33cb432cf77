//! When a job or policy runs.

use std::time::Duration;

use super::super::mistake::Collector;
use super::super::raw::{RawJob, RawPolicy};
use super::job::Policy;
use crate::schedule::{Spec, parse_duration};

/// The four settings of time, each with the path it was written at.
pub(super) struct When<'a> {
    schedule: Option<(&'a str, String)>,
    every: Option<(&'a str, String)>,
    timezone: Option<(&'a str, String)>,
    jitter: Option<(&'a str, String)>,
    /// Where both `schedule` and `every` of one block are complained about.
    path: String,
}

impl<'a> When<'a> {
    pub(super) fn of_policy(p: &'a RawPolicy, path: &str) -> Self {
        let at = |field: &'a Option<String>, name: &str| field.as_deref().map(|v| (v, format!("{path}.{name}")));
        Self {
            schedule: at(&p.schedule, "schedule"),
            every: at(&p.every, "every"),
            timezone: at(&p.timezone, "timezone"),
            jitter: at(&p.jitter, "jitter"),
            path: path.to_owned(),
        }
    }

    pub(super) fn of_job(job: &'a RawJob, path: &str, policy: Option<&'a Policy>) -> Self {
        let at = |field: &'a Option<String>, name: &str| field.as_deref().map(|v| (v, format!("{path}.{name}")));
        let from = policy.map(|p| Self::of_policy(&p.raw, p.path.as_deref().unwrap_or(path)));
        let own = Self {
            schedule: at(&job.schedule, "schedule"),
            every: at(&job.every, "every"),
            timezone: at(&job.timezone, "timezone"),
            jitter: at(&job.jitter, "jitter"),
            path: path.to_owned(),
        };
        let Some(from) = from else { return own };
        // A schedule of the job's own replaces both ways to say it in the policy.
        let timed = own.schedule.is_some() || own.every.is_some();
        Self {
            schedule: if timed { own.schedule } else { from.schedule },
            every: if timed { own.every } else { from.every },
            timezone: own.timezone.or(from.timezone),
            jitter: own.jitter.or(from.jitter),
            path: own.path,
        }
    }

    pub(super) fn spec(&self, out: &mut Collector<'_>) -> Option<Spec> {
        let zone = self.timezone.as_ref().and_then(|(zone, path)| {
            // A schedule that is always valid, so that only the zone can be wrong.
            Spec::parse("@daily", Some(zone)).map_err(|e| out.add_error(path.clone(), &e)).ok().map(|_| *zone)
        });
        match (&self.schedule, &self.every) {
            (Some(_), Some(_)) => {
                out.add(self.path.clone(), "`schedule` and `every` exclude each other");
                None
            }
            (Some((text, path)), None) => Spec::parse(text, zone).map_err(|e| out.add_error(path.clone(), &e)).ok(),
            (None, Some((text, path))) => {
                parse_duration(text).and_then(Spec::every).map_err(|e| out.add_error(path.clone(), &e)).ok()
            }
            (None, None) => Some(Spec::Never),
        }
    }

    pub(super) fn jitter(&self, out: &mut Collector<'_>) -> Duration {
        let jitter =
            self.jitter.as_ref().and_then(|(text, path)| parse_duration(text).map_err(|e| out.add_error(path.clone(), &e)).ok());
        jitter.unwrap_or_default()
    }
}
