//! Names of environments, tenants and jobs. All are DNS labels, so that they are safe in object keys, hostnames and tags.

use std::fmt;
use std::str::FromStr;

/// A name that is not a DNS label.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is not a valid {what} name: 1 to 63 characters a-z, 0-9 and '-', not starting or ending with '-'")]
pub struct NameError {
    what: &'static str,
    name: String,
}

fn check(what: &'static str, s: &str) -> Result<String, NameError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = (1..=63).contains(&s.len()) && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-');
    if good { Ok(s.to_owned()) } else { Err(NameError { what, name: s.chars().take(80).collect() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                check($what, s).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                s.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// Where the tenants live: `production`, `staging`, …
    Environment, "environment"
);
name!(
    /// Whose data it is. Matches `^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`.
    TenantName, "tenant"
);
name!(
    /// A job of one tenant. Unique within the tenant.
    JobName, "job"
);

/// `TENANT` or `TENANT/JOB` on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The tenant.
    pub tenant: TenantName,
    /// One job of it; all of them when absent.
    pub job: Option<JobName>,
}

impl FromStr for Selector {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let (tenant, job) = match s.split_once('/') {
            Some((t, j)) => (t, Some(j)),
            None => (s, None),
        };
        Ok(Self { tenant: tenant.parse()?, job: job.map(str::parse).transpose()? })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.job {
            Some(j) => write!(f, "{}/{j}", self.tenant),
            None => write!(f, "{}", self.tenant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dns_labels_are_names() {
        for good in ["a", "a-b", "0", &"x".repeat(63)] {
            assert!(good.parse::<TenantName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", "..", "ü", &"x".repeat(64)] {
            assert!(bad.parse::<TenantName>().is_err(), "{bad}");
        }
        assert!("a/b".parse::<Selector>().is_ok_and(|s| s.job.is_some()));
        assert!("a/b/c".parse::<Selector>().is_err());
    }
}
