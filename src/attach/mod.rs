//! Attach and detach: checks, constraint, companions, triggers, opening movements.

pub mod attach;
pub mod companions;
pub mod drop_guard;
pub mod leftover;
pub mod opening;
