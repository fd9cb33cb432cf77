//! Master keys that this process opened, so that scrypt (32 MiB and a tenth of a second) runs once for a key file and
//! password, however often a repository is opened: by each job after a reload of the configuration, for example.
//!
//! A key file is read again every time, so a removed key opens nothing any more. Passwords are not kept.

use std::collections::HashMap;
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::crypto::{MasterKey, Sha256, random};
use crate::model::Id;
use crate::runtime::SecretText;

/// Keys kept at most: more tenants than one process serves.
const MOST: usize = 1024;

static OPENED: LazyLock<Mutex<HashMap<Mark, MasterKey>>> = LazyLock::new(Mutex::default);
/// Makes marks worthless outside this process.
static SALT: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut salt = [0; 32];
    random(&mut salt);
    salt
});

/// Stands for a key file (whose name is the hash of its content) and a password that opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark(Id);

pub(super) fn mark(key_file: &Id, password: &SecretText) -> Mark {
    let mut hash = Sha256::default();
    hash.update(&SALT[..]);
    hash.update(&key_file.0);
    hash.update(password.expose().as_bytes());
    Mark(hash.finish())
}

pub(super) fn get(mark: &Mark) -> Option<MasterKey> {
    OPENED.lock().get(mark).cloned()
}

pub(super) fn keep(mark: Mark, master: &MasterKey) {
    let mut opened = OPENED.lock();
    if opened.len() >= MOST {
        opened.clear();
    }
    opened.insert(mark, master.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;

    #[test]
    fn a_key_is_found_by_its_file_and_password_only() {
        let (file, password) = (sha256(b"a key file"), SecretText::new("one".into()));
        let master = MasterKey::generate();
        assert!(get(&mark(&file, &password)).is_none());
        keep(mark(&file, &password), &master);
        let found = get(&mark(&file, &SecretText::new("one".into()))).expect("kept");
        assert_eq!((found.encrypt, found.mac_k, found.mac_r), (master.encrypt, master.mac_k, master.mac_r));
        assert!(get(&mark(&file, &SecretText::new("two".into()))).is_none());
        assert!(get(&mark(&sha256(b"another"), &password)).is_none());
    }
}
