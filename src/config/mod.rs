//! Configuration: a file (YAML, TOML or JSON) and `STRONGROOM__…` variables → settings that are complete and valid.
//!
//! 1. `text`: syntax, with line and column.
//! 2. `load`: the environment is laid over the file.
//! 3. `shape`: every unknown key and wrong type, told by the schema of [`raw`]; what is wrong is taken out.
//! 4. `validate`: what is left is checked for its meaning.
//!
//! Mistakes of 3 and 4 are collected and reported together, each with its path and place.
//!
//! Pure but for reading the file: whether a store answers or a password opens is for `strongroom doctor`.

mod adhoc;
mod example;
mod load;
mod mistake;
pub mod raw;
mod schema;
pub mod settings;
mod shape;
mod text;
mod units;
mod validate;

pub use crate::schedule::parse_duration;
pub use adhoc::{AdHoc, AdHocSource};
pub use example::EXAMPLE;
pub use load::{ENV_PREFIX, load, load_text, load_value};
pub(crate) use mistake::nearest;
pub use mistake::{Mistake, Mistakes};
pub use schema::schema;
pub use settings::Settings;
pub use text::Format;
pub use units::parse_size;
