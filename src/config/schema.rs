//! The JSON Schema of the configuration, made from the raw structs.

use serde_json::Value;

use super::raw::RawConfig;

/// What `strongroom config schema` prints: JSON Schema 2020-12. Editors complete and check YAML files with it.
#[must_use]
pub fn schema() -> Value {
    schemars::schema_for!(RawConfig).to_value()
}
