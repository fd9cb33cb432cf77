//! The shortest way through `wal push` and `wal fetch`, if a helper has the answer: see [`crate::app::wal::quick`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::session::usual_config;
use crate::app::wal::quick;

/// The arguments of a plain call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plain<'a> {
    config: Option<&'a str>,
    job: &'a str,
    mode: Option<&'a str>,
    words: Vec<&'a str>,
}

/// Whether it is done. Everything that is out of the ordinary is left to the usual way.
pub(in super::super) fn answered(arguments: &[OsString]) -> bool {
    let Some(plain) = plain(arguments) else { return false };
    let set = |name| std::env::var_os(name);
    // They belong to the key, and say more than their text.
    if ["STRONGROOM_ALLOW_COMMANDS", "STRONGROOM_TRUST_ENDPOINTS"].into_iter().any(|name| set(name).is_some()) {
        return false;
    }
    let named = plain.config.map(PathBuf::from).or_else(|| set("STRONGROOM_CONFIG").map(PathBuf::from));
    let Some(config) = named.or_else(usual_config).filter(|c| !c.as_os_str().is_empty()) else { return false };
    let key = || quick::key(&config, plain.job, "");
    match plain.words.as_slice() {
        ["wal", "push", path] if plain.mode.is_none() => key().is_some_and(|key| quick::push(Path::new(path), &key)),
        ["wal", "fetch", name, to] => {
            let mode = plain.mode.unwrap_or("recovery");
            ["recovery", "standby"].contains(&mode) && key().is_some_and(|key| quick::fetch(name, Path::new(to), mode, &key))
        }
        _ => false,
    }
}

/// `None`: something that is not known here.
fn plain(arguments: &[OsString]) -> Option<Plain<'_>> {
    let mut out = Plain::default();
    let mut rest = arguments.iter().skip(1).map(|a| a.to_str());
    while let Some(argument) = rest.next() {
        let argument = argument?;
        let (name, given) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (argument, None),
        };
        let mut value = || given.or_else(|| rest.next().flatten()).filter(|v| !v.starts_with('-'));
        match name {
            "--config" => out.config = Some(value()?),
            "--job" => out.job = value()?,
            "--mode" => out.mode = Some(value()?),
            "-q" | "--quiet" if given.is_none() => {}
            _ if name.starts_with('-') => return None,
            _ => out.words.push(argument),
        }
    }
    // Without a job, the usual way finds out which one is meant.
    (out.words.first() == Some(&"wal") && !out.job.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_calls_are_understood() {
        let ask = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let call = ask("strongroom --config=/c -q wal fetch a b --mode standby --job t/j");
        let expected = Plain { config: Some("/c"), job: "t/j", mode: Some("standby"), words: vec!["wal", "fetch", "a", "b"] };
        assert_eq!(plain(&call), Some(expected));
        for other in [
            "strongroom wal push a",
            "strongroom wal push a --job",
            "strongroom wal push a --job t/j --json",
            "strongroom wal push a --job t/j --data-directory /d",
            "strongroom --repository x wal push a --job t/j",
            "strongroom backup t/j --job t/j",
        ] {
            assert_eq!(plain(&ask(other)), None, "{other}");
        }
    }
}
