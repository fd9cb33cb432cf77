//! Where each tenant's repository is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;

use super::super::mistake::{Collector, nearest};
use super::super::raw::{RawAzure, RawAzureAuth, RawChecksum, RawConfig, RawRepository, RawS3, RawSecret};
use super::super::settings::{Azure, AzureAuth, Checksum, Repository, S3, S3Keys, Sse, StoreSettings, Tenant};
use super::secret::{Names, placeholder};
use crate::model::TenantName;

/// The layout where none is configured.
pub(crate) const DEFAULT_LAYOUT: &str = "{root}/{environment}/{tenant}";

/// One field of the merged repository: the tenant's own, else the default's; with the path it was written at.
macro_rules! pick {
    ($own:expr, $default:expr, $tenant_path:expr, $field:ident) => {
        match ($own.and_then(|r| r.$field.as_ref()), $default.and_then(|r| r.$field.as_ref())) {
            (Some(v), _) => Some((v, format!("{}.repository.{}", $tenant_path, stringify!($field)))),
            (None, Some(v)) => Some((v, format!("repository.{}", stringify!($field)))),
            (None, None) => None,
        }
    };
}

/// `None` after a mistake.
pub(super) fn repository(
    default: Option<&RawRepository>,
    own: Option<&RawRepository>,
    tenant_path: &str,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<Repository> {
    let url = pick!(own, default, tenant_path, url);
    let password = pick!(own, default, tenant_path, password);
    // A store of its own takes nothing over that belongs to another store, credentials least of all.
    let inherited = if own.is_some_and(|o| o.url.is_some()) { None } else { default };
    let s3 = pick!(own, inherited, tenant_path, s3);
    let azure = pick!(own, inherited, tenant_path, azure);
    let allow_http = pick!(own, inherited, tenant_path, allow_http).is_some_and(|(v, _)| *v);
    let layout = pick!(own, default, tenant_path, layout);
    let compression = pick!(own, default, tenant_path, compression);

    let level = match compression {
        Some((n, path)) => match i32::try_from(*n) {
            Ok(n) if (1..=19).contains(&n) => n,
            _ => {
                out.add(path, format!("{n} is out of range: 1 to 19"));
                1
            }
        },
        None => 1,
    };
    let password = match password {
        Some((raw, path)) => names.secret(raw, &path, out),
        None => {
            missing(
                "password",
                "there is no password",
                "Add `password: { file: \"/etc/strongroom/keys/{tenant}\" }`.",
                tenant_path,
                default,
                own,
                out,
            );
            None
        }
    };
    let Some((url, url_path)) = url else {
        missing(
            "url",
            "there is no store",
            "Add `url: s3://bucket/prefix`, `azblob://container/prefix` or `file:///path`.",
            tenant_path,
            default,
            own,
            out,
        );
        return None;
    };
    let place = parse_url(url, &url_path, out);
    let layout = match &layout {
        Some((text, path)) => expand_layout(text, path, names, out),
        None => expand_layout(DEFAULT_LAYOUT, "repository.layout", names, out),
    };
    let (place, layout) = (place?, layout?);
    let empty = (RawS3::default(), RawAzure::default());
    let other = |used: &str, block: &str, out: &mut Collector<'_>, path: &str| {
        out.add(path, format!("`{block}` does not belong to a {used} store"));
    };
    if let (Some((_, path)), false) = (&s3, place.scheme == Scheme::S3) {
        other(place.scheme.name(), "s3", out, path);
    }
    if let (Some((_, path)), false) = (&azure, place.scheme == Scheme::Azure) {
        other(place.scheme.name(), "azure", out, path);
    }
    let root = place.root.trim_matches('/');
    let prefix = layout.replace("{root}", root);
    let prefix = prefix.split('/').filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/");
    let store = match place.scheme {
        Scheme::Local => StoreSettings::Local { path: PathBuf::from(format!("/{prefix}")) },
        Scheme::S3 => {
            let (raw, path) = s3.map_or((&empty.0, format!("{tenant_path}.repository.s3")), |(r, p)| (r, p));
            StoreSettings::S3(s3_settings(raw, &path, place.name, prefix, allow_http, names, out)?)
        }
        Scheme::Azure => {
            let (raw, path) = azure.map_or((&empty.1, format!("{tenant_path}.repository.azure")), |(r, p)| (r, p));
            StoreSettings::Azure(azure_settings(raw, &path, place.name, prefix, allow_http, names, out)?)
        }
    };
    Some(Repository { store, password: password?, compression: level })
}

/// A missing field is told once, at the default repository, unless the tenant has a block of its own.
fn missing(
    field: &str,
    what: &str,
    hint: &str,
    tenant_path: &str,
    default: Option<&RawRepository>,
    own: Option<&RawRepository>,
    out: &mut Collector<'_>,
) {
    let block = if own.is_some() && default.is_none() { format!("{tenant_path}.repository") } else { "repository".into() };
    // A block of the wrong type was dropped; what it would have held is unknown, not missing.
    if !out.has(&block) {
        out.add_hint(format!("{block}.{field}"), what, hint);
    }
}

/// Looks at the default repository even where every tenant has its own.
pub(super) fn check_unused_default(raw: &RawConfig, out: &mut Collector<'_>) {
    if let Some(url) = raw.repository.as_ref().and_then(|r| r.url.as_deref()) {
        parse_url(url, "repository.url", out);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Local,
    S3,
    Azure,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Local => "local",
            Scheme::S3 => "S3",
            Scheme::Azure => "Azure",
        }
    }
}

struct Place {
    scheme: Scheme,
    /// Bucket or container.
    name: String,
    root: String,
}

fn parse_url(text: &str, path: &str, out: &mut Collector<'_>) -> Option<Place> {
    const HINT: &str = "Write `s3://bucket/prefix`, `azblob://container/prefix` or `file:///absolute/path`.";
    let scheme = match text.split_once("://").map(|(s, _)| s) {
        Some("s3") => Scheme::S3,
        Some("azblob") => Scheme::Azure,
        Some("file") => Scheme::Local,
        Some(other) => {
            let hint = nearest(other, ["s3", "azblob", "file"]).map_or(HINT.to_owned(), |n| format!("Did you mean `{n}://`?"));
            out.add_hint(path, format!("`{}://` is not a kind of store", other.escape_debug()), hint);
            return None;
        }
        None => {
            out.add_hint(path, "not the URL of a store", HINT);
            return None;
        }
    };
    if scheme == Scheme::Local {
        // Not parsed as a URL: a path may hold any character.
        let root = text.strip_prefix("file://").unwrap_or_default();
        if !root.starts_with('/') || root.split('/').any(|s| s == ".." || s == ".") || root.contains('\0') {
            out.add_hint(path, "not an absolute path", "Write `file:///absolute/path`, without `.` and `..`.");
            return None;
        }
        return Some(Place { scheme, name: String::new(), root: root.to_owned() });
    }
    let Ok(url) = Url::parse(text) else {
        out.add_hint(path, "not the URL of a store", HINT);
        return None;
    };
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
        || url.port().is_some()
    {
        let hint = "Endpoints and credentials have settings of their own: `s3: { endpoint: … }`, `azure: { sas: … }`.";
        out.add_hint(path, "the URL of a store holds a name and a prefix only", hint);
        return None;
    }
    // Taken from the text, because the URL parser changes letters and dots.
    let rest = text.split_once("://").map(|(_, r)| r).unwrap_or_default();
    let (name, root) = rest.split_once('/').unwrap_or((rest, ""));
    let good = name.len() >= 3
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
    if !good {
        out.add_hint(path, format!("`{}` is not the name of a bucket or container", name.escape_debug()), HINT);
        return None;
    }
    if root.split('/').any(|s| s == "." || s == "..") {
        out.add(path, "`.` and `..` are no parts of a prefix");
        return None;
    }
    Some(Place { scheme, name: name.to_owned(), root: root.to_owned() })
}

/// The layout with `{environment}` and `{tenant}` filled in; `{root}` stays.
fn expand_layout(text: &str, path: &str, names: &Names<'_>, out: &mut Collector<'_>) -> Option<String> {
    const HINT: &str = "Write it like `{root}/{environment}/{tenant}`.";
    let rest = text.strip_prefix("{root}");
    let Some(rest) = rest.filter(|r| r.is_empty() || r.starts_with('/')) else {
        out.add_hint(path, "a layout starts with `{root}`", HINT);
        return None;
    };
    let rest = rest.replace("{tenant}", names.tenant.as_str()).replace("{environment}", names.environment);
    if let Some(unknown) = placeholder(&rest) {
        out.add_hint(path, format!("unknown placeholder `{unknown}`"), "Known here: `{root}`, `{environment}`, `{tenant}`.");
        return None;
    }
    if rest.split('/').any(|s| s == "." || s == "..") {
        out.add_hint(path, "`.` and `..` are no parts of a layout", HINT);
        return None;
    }
    Some(format!("{{root}}{rest}"))
}

fn endpoint(raw: Option<&String>, path: &str, allow_http: bool, out: &mut Collector<'_>) -> Option<String> {
    let text = raw?;
    let url = Url::parse(text).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.host_str().is_some());
    match url {
        None => {
            out.add_hint(path, "not an endpoint", "Write `https://host:port`.");
            None
        }
        Some(u) if u.scheme() == "http" && !allow_http => {
            out.add_hint(
                path,
                "plain http is not allowed",
                "Use https, or set `allow_http: true` in this repository if the network is trusted.",
            );
            None
        }
        Some(u) if !u.username().is_empty() || u.password().is_some() || u.query().is_some() => {
            out.add(path, "an endpoint holds no credentials and no parameters");
            None
        }
        Some(_) => Some(text.trim_end_matches('/').to_owned()),
    }
}

fn s3_settings(
    raw: &RawS3,
    path: &str,
    bucket: String,
    prefix: String,
    allow_http: bool,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<S3> {
    let endpoint = endpoint(raw.endpoint.as_ref(), &format!("{path}.endpoint"), allow_http, out);
    let checksum = match raw.checksum.unwrap_or(RawChecksum::Auto) {
        RawChecksum::Auto if endpoint.is_some() => Checksum::WhenRequired,
        RawChecksum::Auto | RawChecksum::WhenSupported => Checksum::WhenSupported,
        RawChecksum::WhenRequired => Checksum::WhenRequired,
    };
    let sse = match raw.sse.as_ref().map(|s| (s.s3, s.kms_key_id.as_ref())) {
        None | Some((None | Some(false), None)) => Sse::BucketDefault,
        Some((Some(true), None)) => Sse::S3,
        Some((None | Some(false), Some(key))) => Sse::Kms(key.clone()),
        Some((Some(true), Some(_))) => {
            out.add(format!("{path}.sse"), "`s3` and `kms_key_id` exclude each other");
            Sse::BucketDefault
        }
    };
    let id = raw.access_key_id.as_ref().and_then(|s| names.secret_or_text(s, &format!("{path}.access_key_id"), out));
    let secret = secret_at(raw.secret_access_key.as_ref(), &format!("{path}.secret_access_key"), names, out);
    let session_token = secret_at(raw.session_token.as_ref(), &format!("{path}.session_token"), names, out);
    if raw.access_key_id.is_some() != raw.secret_access_key.is_some() {
        out.add(path, "`access_key_id` and `secret_access_key` belong together");
    }
    let keys = id.zip(secret).map(|(id, secret)| S3Keys { id, secret, session_token });
    Some(S3 {
        bucket,
        prefix,
        region: raw.region.clone(),
        path_style: raw.path_style.unwrap_or(endpoint.is_some()),
        endpoint,
        checksum,
        sse,
        storage_class: raw.storage_class.clone(),
        ca_file: raw.ca_file.as_ref().map(PathBuf::from),
        keys,
        allow_http,
    })
}

fn azure_settings(
    raw: &RawAzure,
    path: &str,
    container: String,
    prefix: String,
    allow_http: bool,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<Azure> {
    let endpoint = endpoint(raw.endpoint.as_ref(), &format!("{path}.endpoint"), allow_http, out);
    let key = secret_at(raw.key.as_ref(), &format!("{path}.key"), names, out);
    let sas = secret_at(raw.sas.as_ref(), &format!("{path}.sas"), names, out);
    let auth = raw.auth.unwrap_or(match (&raw.key, &raw.sas) {
        (Some(_), _) => RawAzureAuth::SharedKey,
        (None, Some(_)) => RawAzureAuth::Sas,
        (None, None) => RawAzureAuth::WorkloadIdentity,
    });
    let needs = |field: &str, given: bool, out: &mut Collector<'_>| {
        if !given {
            out.add(format!("{path}.{field}"), format!("`auth` asks for a `{field}` and there is none"));
        }
    };
    let auth = match auth {
        RawAzureAuth::WorkloadIdentity => Some(AzureAuth::WorkloadIdentity(raw.client_id.clone())),
        RawAzureAuth::ManagedIdentity => Some(AzureAuth::ManagedIdentity(raw.client_id.clone())),
        RawAzureAuth::SharedKey => {
            needs("key", raw.key.is_some(), out);
            key.map(AzureAuth::SharedKey)
        }
        RawAzureAuth::Sas => {
            needs("sas", raw.sas.is_some(), out);
            sas.map(AzureAuth::Sas)
        }
    };
    let Some(account) = raw.account.clone() else {
        out.add(format!("{path}.account"), "there is no storage account");
        return None;
    };
    if !(3..=24).contains(&account.len()) || !account.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        out.add(format!("{path}.account"), format!("`{}` is not the name of a storage account", account.escape_debug()));
    }
    Some(Azure {
        account,
        container,
        prefix,
        endpoint,
        auth: auth?,
        access_tier: raw.access_tier.clone(),
        ca_file: raw.ca_file.as_ref().map(PathBuf::from),
        allow_http,
    })
}

fn secret_at(
    raw: Option<&RawSecret>,
    path: &str,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<crate::runtime::Secret> {
    names.secret(raw?, path, out)
}

/// Two tenants must never share a place, nor lie inside each other.
pub(super) fn check_overlap(tenants: &BTreeMap<TenantName, Tenant>, out: &mut Collector<'_>) {
    let mut places: Vec<(Vec<String>, &TenantName)> = tenants.iter().map(|(n, t)| (segments(&t.repository.store), n)).collect();
    places.sort();
    // After sorting, everything inside a place follows it directly, so a stack of the open ones is enough.
    let mut open: Vec<&(Vec<String>, &TenantName)> = Vec::new();
    for place in &places {
        while open.last().is_some_and(|o| !place.0.starts_with(&o.0)) {
            open.pop();
        }
        if let Some((outer, other)) = open.last() {
            let how = if *outer == place.0 { "is the repository of" } else { "lies inside the repository of" };
            out.add_hint(
                format!("tenants.{}", place.1),
                format!("its repository {how} tenant `{other}`"),
                "Give every tenant a place of its own: keep `{tenant}` in `layout`, or use another `url`.",
            );
        }
        open.push(place);
    }
}

/// What tells one place from another, from the outside in.
fn segments(store: &StoreSettings) -> Vec<String> {
    let (mut out, path) = match store {
        StoreSettings::Local { path } => (vec!["local".to_owned()], path.to_string_lossy().into_owned()),
        StoreSettings::S3(s) => {
            let endpoint = s.endpoint.as_deref().unwrap_or("aws").to_lowercase();
            (vec!["s3".to_owned(), endpoint, s.bucket.clone()], s.prefix.clone())
        }
        StoreSettings::Azure(a) => {
            let endpoint = a.endpoint.as_deref().unwrap_or("azure").to_lowercase();
            (vec!["azure".to_owned(), endpoint, a.account.clone(), a.container.clone()], a.prefix.clone())
        }
    };
    out.extend(path.split('/').filter(|s| !s.is_empty()).map(str::to_owned));
    out
}
