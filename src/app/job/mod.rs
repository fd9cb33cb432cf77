//! One run of one job, as the daemon and the one-shot command make it: lease → attempts → retention.
//!
//! - **At most once at a time**: the job's lease in the store is taken first and kept fresh. Whoever loses it stops.
//! - **At most once for each due time**: under the lease, the repository is asked whether another process did it meanwhile.
//! - **Attempts** with growing pauses, within the job's timeout. A repository locked by a prune is waited for.
//! - **Retention** follows a complete backup only, and has a result of its own: its failure leaves the backup a success.

mod attempts;
pub(super) mod leased;
mod run;

pub use crate::store::Counts;
pub use attempts::Patience;
pub use run::{Options, Outcome, Why, last_success, run};
