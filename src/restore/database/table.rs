//! Naming one table.

use crate::error::{Error, Kind, Result};

/// A table by schema and name, as they are (not quoted, case as stored).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl std::str::FromStr for Table {
    type Err = Error;

    /// `SCHEMA.NAME`, or `NAME` for schema `public`. Parts may be quoted as in SQL; without quotes they are taken as they
    /// are, capitals included.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(Kind::Usage, format!("{text:?} is no table name"))
                .hint("Write SCHEMA.NAME, or \"SCHEMA\".\"NAME\" if a part has a dot.")
        };
        let mut parts = vec![String::new()];
        let mut quoted = false;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let part = parts.last_mut().ok_or_else(wrong)?;
            match c {
                '"' if quoted && chars.next_if_eq(&'"').is_some() => part.push('"'),
                '"' => quoted = !quoted,
                '.' if !quoted => parts.push(String::new()),
                c => part.push(c),
            }
        }
        let mut parts = parts.into_iter();
        let table = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), None, None) => Self { schema: "public".to_owned(), name },
            (Some(schema), Some(name), None) => Self { schema, name },
            _ => return Err(wrong()),
        };
        if quoted || table.schema.is_empty() || table.name.is_empty() { Err(wrong()) } else { Ok(table) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_read() {
        let table = |text: &str| text.parse::<Table>().map(|t| (t.schema, t.name));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(table("orders").unwrap(), pair("public", "orders"));
        assert_eq!(table("sales.Orders").unwrap(), pair("sales", "Orders"));
        assert_eq!(table("\"a.b\".\"c\"\"d\"").unwrap(), pair("a.b", "c\"d"));
        for bad in ["", ".", "a.", "a.b.c", "\"a"] {
            assert!(table(bad).is_err(), "{bad}");
        }
    }
}
