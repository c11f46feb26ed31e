//! inventory_audit_report and schedule_inventory_audit.

use crate::audit::{report, schedule};
use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use pgrx::pg_extern;

/// The most bytes of a schedule.
const MAX_SCHEDULE_BYTES: usize = 255;

/// Returns a run of the audit as an HTML page that can be opened by itself.
#[pg_extern(sql = false)]
fn inventory_audit_report(p_run: Option<i64>) -> Vec<u8> {
    finish(report::page(p_run))
}

/// Registers a daily audit with pg_cron, or says what to do without it.
#[pg_extern(sql = false)]
fn schedule_inventory_audit(p_schedule: Option<&[u8]>) -> Vec<u8> {
    finish(register(p_schedule))
}

fn register(schedule: Option<&[u8]>) -> Result<String> {
    let schedule = schedule.ok_or_else(|| Error::null_argument("p_schedule"))?;
    if schedule.len() > MAX_SCHEDULE_BYTES {
        return Err(Error::text_length("p_schedule", schedule.len(), MAX_SCHEDULE_BYTES));
    }
    schedule::register(&from_server(schedule)).map(|result| spaced(&result))
}
