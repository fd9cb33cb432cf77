//! What every room needs of the machine: time, cancellation, child processes, memory budget.

mod cancel;
mod clock;

pub use cancel::Cancel;
pub use clock::{Clock, SystemClock, TestClock};
