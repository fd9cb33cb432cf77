//! Where each tenant's repository is and how it is opened.

use super::super::mistake::Collector;
use super::super::raw::{RawConfig, RawRepository};
use super::super::settings::Repository;
use super::secret::{Names, placeholder};
use super::store::{self, Block, Rates};
use crate::store::StoreUrl;

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
    limits: Rates,
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
    let timeouts = pick!(own, inherited, tenant_path, timeouts);
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
    let url = parse_url(url, &url_path, out);
    let layout = match &layout {
        Some((text, path)) => expand_layout(text, path, names, out),
        None => expand_layout(DEFAULT_LAYOUT, "repository.layout", names, out),
    };
    let (url, layout) = (url?, layout?);
    let url =
        if layout.is_empty() { url } else { url.join(&layout).map_err(|e| out.add_error(url_path.clone(), &e.into())).ok()? };
    let blocks = store::Blocks {
        url_path: &url_path,
        s3: s3.map(|(raw, path)| Block { raw, path }),
        azure: azure.map(|(raw, path)| Block { raw, path }),
        timeouts: timeouts.map(|(raw, path)| Block { raw, path }),
        allow_http,
        limits,
    };
    let store = store::settings(url, &blocks, names, out);
    Some(Repository { store: store?, password: password?, compression: level })
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

fn parse_url(text: &str, path: &str, out: &mut Collector<'_>) -> Option<StoreUrl> {
    text.parse().map_err(|e: crate::store::Error| out.add_error(path, &e.into())).ok()
}

/// The layout with `{environment}` and `{tenant}` filled in, without its `{root}/`.
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
    let parts: Vec<&str> = rest.split('/').filter(|s| !s.is_empty()).collect();
    Some(parts.join("/"))
}
