//! `strongroom run`: the daemon.

mod scheduler;
mod turn;

#[cfg(test)]
mod tests;
