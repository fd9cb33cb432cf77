//! Where a store is, as people write it: `s3://bucket/prefix`, `azblob://container/prefix`, `file:///absolute/path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Error, ErrorKind, Key, Result};

/// The address of a store. Never holds credentials, so it may be printed anywhere.
///
/// A prefix is empty or a valid [`Key`]: keys of the store are put behind it with a `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreUrl {
    /// `s3://bucket[/prefix]`
    S3 {
        /// Bucket name, 3 to 63 of `a-z 0-9 . -`.
        bucket: String,
        /// Below the bucket.
        prefix: String,
    },
    /// `azblob://container[/prefix]`
    Azure {
        /// Container name, 3 to 63 of `a-z 0-9 -`, or `$root`.
        container: String,
        /// Below the container.
        prefix: String,
    },
    /// `file:///absolute/path`
    File {
        /// The root as it was configured. It must exist (or be created on purpose, see [`super::OpenOptions`]): an
        /// unmounted disk must not look like an empty store.
        path: PathBuf,
        /// Below the root, from [`StoreUrl::join`]. Made when something is first put there.
        prefix: String,
    },
}

impl StoreUrl {
    /// The same store, `below` further down: how a tenant's repository is found below the configured address.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `below` is not a valid [`Key`] (`..`, empty segments).
    pub fn join(&self, below: &str) -> Result<Self> {
        let below = Key::new(below)?;
        let mut joined = self.clone();
        let prefix = match &mut joined {
            Self::S3 { prefix, .. } | Self::Azure { prefix, .. } | Self::File { prefix, .. } => prefix,
        };
        if !prefix.is_empty() {
            prefix.push('/');
        }
        prefix.push_str(below.as_str());
        Ok(joined)
    }

    /// The part below bucket, container or root.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self {
            Self::S3 { prefix, .. } | Self::Azure { prefix, .. } | Self::File { prefix, .. } => prefix,
        }
    }

    /// Whether objects of one could be objects of the other: same place, and one prefix equal to or above the other.
    /// Two tenants must never overlap.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        fn nested(a: &str, b: &str) -> bool {
            let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
            short.is_empty() || long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        match (self, other) {
            (Self::S3 { bucket: a, prefix: p }, Self::S3 { bucket: b, prefix: q }) => a == b && nested(p, q),
            (Self::Azure { container: a, prefix: p }, Self::Azure { container: b, prefix: q }) => a == b && nested(p, q),
            (Self::File { path: a, prefix: p }, Self::File { path: b, prefix: q }) => {
                let (a, b) = (a.join(p), b.join(q));
                a.starts_with(&b) || b.starts_with(&a)
            }
            _ => false,
        }
    }
}

fn invalid(text: &str, why: &str) -> Error {
    // The user part of an authority may be a secret, so that the text is shown only where there is none.
    let shown = if text.contains('@') { "the address" } else { text };
    Error::new(ErrorKind::Invalid, format!("`{shown}` is not a store's address: {why}"))
        .hint("Write s3://bucket/prefix, azblob://container/prefix or file:///absolute/path.")
}

impl FromStr for StoreUrl {
    type Err = Error;

    /// A trailing `/` is cut off. No percent-decoding: the text is taken as it is.
    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid(text, "it has no scheme"))?;
        if rest.contains(['?', '#']) && scheme != "file" {
            return Err(invalid(text, "`?` and `#` have no place in it"));
        }
        if scheme == "file" {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(invalid(text, "the path must be absolute"));
            }
            let path = PathBuf::from(path);
            if path.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
                return Err(invalid(text, "`..` has no place in it"));
            }
            // Collected again, so that `//` and trailing slashes are gone and equal places compare equal.
            return Ok(Self::File { path: path.components().collect(), prefix: String::new() });
        }
        let (place, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/').to_owned();
        if !prefix.is_empty() {
            Key::new(prefix.as_str()).map_err(|_| invalid(text, "its prefix has empty, `.` or `..` segments or is too long"))?;
        }
        if place.contains(['@', ':']) {
            return Err(invalid(text, "credentials and ports have no place in it"));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || (c == '.' && scheme == "s3");
        let named = (3..=63).contains(&place.len()) && place.chars().all(allowed);
        match scheme {
            "s3" if named => Ok(Self::S3 { bucket: place.to_owned(), prefix }),
            "azblob" if named || place == "$root" => Ok(Self::Azure { container: place.to_owned(), prefix }),
            "s3" => Err(invalid(text, "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens")),
            "azblob" => Err(invalid(text, "a container has 3 to 63 lower-case letters, digits and hyphens")),
            _ => Err(invalid(text, "the scheme must be s3, azblob or file")),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, .. } => write!(f, "s3://{bucket}")?,
            Self::Azure { container, .. } => write!(f, "azblob://{container}")?,
            Self::File { path, .. } => write!(f, "file://{}", path.display())?,
        }
        if !self.prefix().is_empty() {
            write!(f, "/{}", self.prefix())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_are_read_and_printed_the_same() {
        for text in [
            "s3://bucket1",
            "s3://my.bucket-1/a/b c/ö",
            "azblob://backups/x",
            "azblob://$root",
            "file:///var/lib/x",
            "file:///a b/c%20d",
        ] {
            assert_eq!(url(text).to_string(), text);
        }
        assert_eq!(url("s3://bucket/a/"), url("s3://bucket/a"));
        assert_eq!(url("file:///a//b/"), url("file:///a/b"));
        assert_eq!(url("file://localhost/a"), url("file:///a"));
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        for bad in [
            "bucket",
            "s3://",
            "s3://ab",
            "s3://Bucket",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3://bucket?x=1",
            "azblob://a.b.c/x",
            "gs://bucket",
            "file://relative",
            "file:///a/../b",
            "s3://bucket:9000/x",
        ] {
            assert_eq!(bad.parse::<StoreUrl>().map_err(|e| e.kind()), Err(ErrorKind::Invalid), "{bad}");
        }
        let error = "s3://AKIA:hunter2@bucket/x".parse::<StoreUrl>().expect_err("credentials").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn tenants_are_joined_and_overlaps_found() {
        let (a, b) = (
            url("s3://bucket/root").join("production/acme").expect("a"),
            url("s3://bucket").join("root/production/acme2").expect("b"),
        );
        assert_eq!(a.to_string(), "s3://bucket/root/production/acme");
        assert!(!a.overlaps(&b));
        assert!(a.overlaps(&url("s3://bucket/root")) && url("s3://bucket").overlaps(&a) && a.overlaps(&a));
        assert!(!a.overlaps(&url("s3://other/root")));
        let f = url("file:///srv/x").join("t").expect("t");
        assert!(
            f.overlaps(&url("file:///srv")) && f.overlaps(&url("file:///srv/x/t/deep")) && !f.overlaps(&url("file:///srv/x/t2"))
        );
        assert!(url("s3://bucket").join("../x").is_err());
    }
}
