//! Key files: each wraps the same master key under a password.
//!
//! `keys/<SHA-256 of the file>` is plain JSON: `{created, username, hostname, kdf: "scrypt", N, r, p, salt, data}` with
//! `data` = the sealed master key. Removing a key file does not revoke a master key that leaked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::config_file::ConfigFile;
use super::derived;
use super::raw;
use crate::crypto::{MasterKey, random, sha256};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Time};
use crate::runtime::SecretText;
use crate::store::{Key, Payload, PutMode, Store};

/// Key files tried with a password, as stock restic does.
const MAX_TRIED: usize = 20;
/// Memory that a key file of others may make scrypt use.
const MAX_SCRYPT_MEMORY: u64 = 1 << 30;
/// And the work: N·r·p.
const MAX_SCRYPT_WORK: u64 = 1 << 27;
/// Ours: 32 MiB and about 0.1 s.
const N_LOG2: u8 = 15;
const R: u32 = 8;
const P: u32 = 1;

/// A key file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyFile {
    /// When it was made; rustic does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// By whom.
    #[serde(default)]
    pub username: String,
    /// Where.
    #[serde(default)]
    pub hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

#[derive(Serialize, Deserialize)]
struct MasterJson {
    mac: MacJson,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MacJson {
    k: String,
    r: String,
}

impl KeyFile {
    /// Wraps `master` under `password`.
    ///
    /// # Errors
    /// Only if scrypt refuses its parameters.
    pub fn wrap(master: &MasterKey, password: &SecretText, created: Time, username: &str, hostname: &str) -> Result<Self> {
        let mut salt = [0; 64];
        random(&mut salt);
        let mut file = Self {
            created: Some(created),
            username: username.to_owned(),
            hostname: hostname.to_owned(),
            kdf: "scrypt".to_owned(),
            n: 1 << N_LOG2,
            r: R,
            p: P,
            salt: BASE64.encode(salt),
            data: String::new(),
        };
        let json = MasterJson {
            mac: MacJson { k: BASE64.encode(master.mac_k), r: BASE64.encode(master.mac_r) },
            encrypt: BASE64.encode(master.encrypt),
        };
        let plain =
            zeroize::Zeroizing::new(serde_json::to_vec(&json).map_err(|e| Error::new(Kind::Bug, "write a key").because(e))?);
        let mut sealed = Vec::new();
        file.derive(password)?.seal_into(&plain, &mut sealed);
        file.data = BASE64.encode(sealed);
        Ok(file)
    }

    /// Opens with `password`. `None`: the password is not this key's.
    fn unwrap_with(&self, password: &SecretText) -> Result<Option<MasterKey>> {
        let damaged = |what: &str| Error::new(Kind::Corrupt, format!("the key file {what}"));
        let sealed = BASE64.decode(&self.data).map_err(|e| damaged("is not base64").because(e))?;
        let mut plain = zeroize::Zeroizing::new(Vec::new());
        if self.derive(password)?.open_into(&sealed, &mut plain).is_err() {
            return Ok(None);
        }
        let json: MasterJson = serde_json::from_slice(&plain).map_err(|e| damaged("holds no key").because(e))?;
        let mut master = MasterKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        for (text, into) in
            [(&json.encrypt, &mut master.encrypt[..]), (&json.mac.k, &mut master.mac_k[..]), (&json.mac.r, &mut master.mac_r[..])]
        {
            let bytes =
                zeroize::Zeroizing::new(BASE64.decode(text).map_err(|e| damaged("holds a key that is not base64").because(e))?);
            if bytes.len() != into.len() || bytes.iter().all(|b| *b == 0) {
                return Err(damaged("holds a key of the wrong length, or zero"));
            }
            into.copy_from_slice(&bytes);
        }
        Ok(Some(master))
    }

    /// The key that a password and this file's salt give.
    fn derive(&self, password: &SecretText) -> Result<MasterKey> {
        let bad = |why: &str| {
            Error::new(Kind::Failed, format!("the key file asks for scrypt N={} r={} p={}: {why}", self.n, self.r, self.p))
        };
        if self.kdf != "scrypt" || !self.n.is_power_of_two() || self.n < 2 || self.r == 0 || self.p == 0 {
            return Err(bad("not valid"));
        }
        let memory = self.n.saturating_mul(u64::from(self.r)).saturating_mul(128);
        let work = self.n.saturating_mul(u64::from(self.r)).saturating_mul(u64::from(self.p));
        if memory > MAX_SCRYPT_MEMORY || work > MAX_SCRYPT_WORK {
            return Err(bad("more memory or time than is allowed"));
        }
        let salt = BASE64.decode(&self.salt).map_err(|e| bad("the salt is not base64").because(e))?;
        let log_n = u8::try_from(self.n.ilog2()).map_err(|_| bad("not valid"))?;
        let params = scrypt::Params::new(log_n, self.r, self.p).map_err(|e| bad("not valid").because(e.to_string()))?;
        let mut out = zeroize::Zeroizing::new([0u8; 64]);
        scrypt::scrypt(password.expose().as_bytes(), &salt, &params, &mut out[..])
            .map_err(|e| bad("not valid").because(e.to_string()))?;
        let mut key = MasterKey { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        let (encrypt, mac) = out.split_at(32);
        let (k, r) = mac.split_at(16);
        key.encrypt.copy_from_slice(encrypt);
        key.mac_k.copy_from_slice(k);
        key.mac_r.copy_from_slice(r);
        Ok(key)
    }
}

/// Stores a key file.
pub(super) async fn save(store: &dyn Store, file: &KeyFile) -> Result<Id> {
    let json = serde_json::to_vec(file).map_err(|e| Error::new(Kind::Bug, "write a key file").because(e))?;
    let id = sha256(&json);
    store.put(&Key::new(format!("keys/{id}"))?, Payload::from(json), PutMode::Overwrite).await?;
    Ok(id)
}

/// All key files.
pub(super) async fn load_all(store: &dyn Store) -> Result<Vec<(Id, KeyFile)>> {
    let mut out = Vec::new();
    for (id, _) in raw::list(store, "keys").await? {
        let bytes = raw::load(store, "keys", &id).await?;
        let file = serde_json::from_slice(&bytes)
            .map_err(|e| Error::new(Kind::Corrupt, format!("key file {} is not valid", id.short())).because(e))?;
        out.push((id, file));
    }
    Ok(out)
}

/// The first key that `password` opens, where there is no `config` yet to tell whether it is the right one. Key files
/// that are no good are passed over.
pub(super) async fn find(store: &dyn Store, password: &SecretText) -> Result<Option<(Id, MasterKey)>> {
    for (id, _) in raw::list(store, "keys").await?.into_iter().take(MAX_TRIED) {
        match unwrap(store, &id, password).await {
            Ok(Some(master)) => return Ok(Some((id, master))),
            Ok(None) => {}
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::Failed | Kind::NotFound) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The master key in a key file; `None` if the password is not this key's.
async fn unwrap(store: &dyn Store, id: &Id, password: &SecretText) -> Result<Option<MasterKey>> {
    let bytes = raw::load(store, "keys", id).await?;
    let file: KeyFile = serde_json::from_slice(&bytes).map_err(|e| Error::new(Kind::Corrupt, "not a key file").because(e))?;
    let password = password.clone();
    let mark = derived::mark(id, &password);
    if let Some(master) = derived::get(&mark) {
        return Ok(Some(master));
    }
    // scrypt takes a tenth of a second and more: not on a thread that serves requests.
    let unwrapped = tokio::task::spawn_blocking(move || file.unwrap_with(&password))
        .await
        .map_err(|e| Error::new(Kind::Bug, "a key thread ended").because(e))??;
    if let Some(master) = &unwrapped {
        derived::keep(mark, master);
    }
    Ok(unwrapped)
}

/// Finds the key that `password` opens and that opens `config`, which is returned with it. Damaged key files, and those
/// of a process that just lost the race to create the repository, are passed over as long as another one opens.
///
/// # Errors
/// [`Kind::WrongPassword`] only if a sound key file refused the password; [`Kind::Corrupt`] if none is there to ask, or
/// `config` does not decrypt; the store's failures.
pub(super) async fn open(store: &dyn Store, password: &SecretText, config: &[u8]) -> Result<(Id, MasterKey, ConfigFile)> {
    let (mut broken, mut refused) = (None, false);
    let listed = raw::list(store, "keys").await?;
    for (id, _) in listed.into_iter().take(MAX_TRIED) {
        match unwrap(store, &id, password).await.context(|| format!("open key {}", id.short())) {
            Ok(Some(master)) => match raw::decode(&master, config).context(|| "read the repository's config") {
                Ok(config) => return Ok((id, master, config)),
                Err(e) => {
                    broken =
                        Some(e.hint("The password opens a key, so `config` was damaged or replaced. Bring it back from a copy."))
                }
            },
            Ok(None) => refused = true,
            // Removed since it was listed: another process lost the race to create the repository.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) if e.kind() == Kind::Corrupt || e.kind() == Kind::Failed => {
                broken = Some(e.hint("The key file was damaged. Bring it back from a copy; the password may be right."));
            }
            Err(e) => return Err(e),
        }
    }
    match broken {
        Some(broken) if !refused => Err(broken.context(format!("the repository at {} cannot be opened", store.location()))),
        None if !refused => Err(Error::new(Kind::Corrupt, format!("the repository at {} has no keys", store.location()))
            .hint("Without any file in keys/, the repository cannot be opened. Restore one from a copy.")),
        broken => {
            let error = Error::new(
                Kind::WrongPassword,
                format!("no key of the repository at {} opens with this password", store.location()),
            )
            .hint("Check which password the configuration refers to; `restic key list` shows the keys that exist.");
            Err(match broken {
                Some(b) => error.because(b),
                None => error,
            })
        }
    }
}
