//! What every room needs of the machine: time, cancellation, secrets, child processes, memory budget.

pub mod allocator;
mod cancel;
mod clock;
pub mod direct;
mod limits;
pub mod memory;
pub mod process;
pub mod secret;

pub use cancel::Cancel;
pub use clock::{Clock, SystemClock, TestClock};
pub use limits::raise_open_files;
pub use secret::{Secret, SecretText};
