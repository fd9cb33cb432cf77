//! What the daemon tells over HTTP: `/healthz`, `/readyz`, `/metrics`.
//!
//! - `/healthz` is 200 while the scheduler turns, 503 when it has stood still for [`Health::STALL_SECS`]: a reason to restart.
//! - `/readyz` is 200 from the first complete look at the configuration until shutdown begins. A store that cannot be reached does
//!   **not** make the daemon unready: beside a database in one pod that would take the database out of its service.
//! - `/metrics` is the Prometheus text format 0.0.4, or OpenMetrics 1.0 for who asks for it. Names, units and labels are
//!   documented in `docs/metrics.md`.
//!
//! State is passed in: [`Metrics`] and [`Health`] are cheap to clone and may be written from anywhere.

mod drill;
mod health;
mod job;
mod metrics;
mod process;
mod server;
mod text;
mod wal;

pub use drill::{DrillFigures, DrillMetrics};
pub use health::Health;
pub use job::{JobMetrics, Run};
pub use metrics::Metrics;
pub use server::{bind, serve};
pub use wal::WalMetrics;

#[cfg(test)]
mod tests;
