//! Names of users and groups, from this machine's own files.

use std::collections::HashMap;
use std::sync::Arc;

/// Read once: a backup asks for each entry. Names from directory services are not looked up; the numbers are what counts.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, Arc<str>>,
    groups: HashMap<u32, Arc<str>>,
    nameless: Arc<str>,
}

impl Owners {
    pub(super) fn of_this_machine() -> Self {
        // No such file (a minimal container): no names.
        let read = |path| parse(&std::fs::read(path).unwrap_or_default());
        Self { users: read("/etc/passwd"), groups: read("/etc/group"), nameless: Arc::from("") }
    }

    /// Empty if unknown.
    pub(super) fn user(&self, uid: u32) -> Arc<str> {
        self.users.get(&uid).unwrap_or(&self.nameless).clone()
    }

    /// Empty if unknown.
    pub(super) fn group(&self, gid: u32) -> Arc<str> {
        self.groups.get(&gid).unwrap_or(&self.nameless).clone()
    }
}

/// `name:password:number:…` a line; the first of a number counts, as for the C library.
fn parse(text: &[u8]) -> HashMap<u32, Arc<str>> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next(), fields.next(), fields.next());
        if let (Some(name), Some(number)) = (name, number.and_then(|n| n.parse().ok()))
            && !name.is_empty()
        {
            names.entry(number).or_insert_with(|| Arc::from(name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts() {
        let names = parse(b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nbad line\n:x:7:\nsvc:x:1000:1000::/:\n");
        assert_eq!(names.get(&0).map(|n| &**n), Some("root"));
        assert_eq!(names.get(&1000).map(|n| &**n), Some("svc"));
        assert_eq!(names.len(), 2);
    }
}
