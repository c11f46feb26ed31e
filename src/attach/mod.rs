//! Attach and detach: checks, constraint, companions, triggers, opening movements, stripes that were left.

pub mod attach_table;
mod checks;
mod companions;
mod constraint;
pub mod detach_table;
pub mod drop_guard;
mod install;
mod leftover;
mod opening;
pub mod triggers;
