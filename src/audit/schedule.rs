//! Registers the daily run with pg_cron, or says what to do without it.

use crate::audit::access::stock_of_owner;
use crate::core::error::{Error, Result};
use crate::core::seal::{hex, numbers};
use crate::pg::args::Arg;
use crate::pg::spi::connected;
use crate::pg::transaction::require_writable;
use crate::statements::schedule as statements;
use crate::table::companion::{MAX_NAME_BYTES, companion_name};
use crate::table::configuration::configuration;
use serde_json::{Value, json};

/// The digits of a hash in a name.
const HASH_DIGITS: usize = 8;

/// The name of a job: cut, and distinguished from others by a part of its hash, where pg_cron would cut it.
fn job_name(table: &str) -> String {
    let name = format!("audit of {table}");
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let hash = hex(&numbers(name.bytes().map(i64::from)));
    companion_name(&name, &format!("_{}", &hash[..HASH_DIGITS]))
}

/// Registers the audit of the attached table under its own name; what was registered before is replaced.
pub fn register(schedule: &str) -> Result<Value> {
    let stock = stock_of_owner()?;
    let configuration = configuration()?;
    let command = statements::command(&configuration.schema, &stock.names.relation);
    connected(|spi| {
        let database = spi.once(&statements::database(), &[]).required_text(0, c"database")?;
        if spi.once_latest(&statements::has_cron(), &[]).count() == 0 {
            if [schedule, &database, &command].iter().any(|text| text.chars().any(char::is_control)) {
                return Err(Error::control_characters());
            }
            let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
            return Ok(json!({
                "success": true, "scheduled": false, "command": command,
                // cron ends a line at a percent sign.
                "crontab": format!("{schedule} psql -X -q -d {} -c {}", quoted(&database), quoted(&command))
                    .replace('%', r"\%"),
                "hint": "pg_cron is not installed in this database: add the line to the crontab of a member of the \
                         owner, or use a systemd timer as the manual shows.",
            }));
        }
        require_writable(c"schedule_inventory_audit()");
        let name = job_name(&stock.names.relation);
        let args = [name.as_str(), schedule, command.as_str()].map(Arg::text);
        let job: i64 = spi.once(&statements::register(), &args).required(0, c"job")?;
        Ok(json!({"success": true, "scheduled": true, "job": job, "name": name, "command": command}))
    })
}
