//! Eight tasks sell to 64 attempts with tokio-postgres; see tests/clients/till.py for the task of each client.

use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeSet, env, error::Error, rc::Rc};
use tokio::task::LocalSet;
use tokio_postgres::{Client, NoTls, types::Type};

#[derive(Default)]
struct Till {
    attempts: u32,
    sold: BTreeSet<Decimal>,
    replayed: u32,
    refused: u32,
    available: Option<Decimal>,
}

struct Sale {
    new_quantity: Decimal,
    replayed: bool,
}

// docs:begin
async fn sell(
    db: &Client,
    item: i64,
    quantity: Decimal,
    order: &str,
    key: &str,
) -> Result<Sale, tokio_postgres::Error> {
    let call = "SELECT (result ->> 'new_quantity')::numeric, result ->> 'replayed' = 'true'
                  FROM decrement_item($1, $2, p_reference => $3, p_idempotency_key => $4) AS result";
    // query_typed names the types itself and prepares no named statement, so it works behind any pooler
    let values =
        [(&item as _, Type::INT8), (&quantity as _, Type::NUMERIC), (&order as _, Type::TEXT), (&key as _, Type::TEXT)];
    let row = &db.query_typed(call, &values).await?[0];
    Ok(Sale { new_quantity: row.get(0), replayed: row.get::<_, Option<bool>>(1).unwrap_or(false) })
}

fn available(error: &tokio_postgres::Error) -> Option<Decimal> {
    let error = error.as_db_error().filter(|error| error.code().code() == "IV001")?;
    // serde_json with its feature arbitrary_precision keeps every digit of a number
    let facts: Value = serde_json::from_str(error.detail()?).ok()?;
    facts["available"].to_string().parse().ok()
}
// docs:end

async fn worker(till: Rc<RefCell<Till>>, config: String, item: i64, quantity: Decimal) -> Result<(), Box<dyn Error>> {
    let (db, connection) = tokio_postgres::connect(&config, NoTls).await?;
    tokio::task::spawn_local(connection);
    loop {
        let number = till.borrow().attempts;
        if number == 64 {
            return Ok(());
        }
        till.borrow_mut().attempts += 1;
        let (order, key) = (format!("order {number}"), format!("key of order {number}"));
        if let Err(error) = sell(&db, item, quantity, &order, &key).await {
            let left = available(&error).ok_or(error)?;
            let mut till = till.borrow_mut();
            till.refused += 1;
            till.available = Some(left);
            continue;
        }
        // the result above is lost; the same request is sent again
        let sale = sell(&db, item, quantity, &order, &key).await?;
        let mut till = till.borrow_mut();
        till.replayed += u32::from(sale.replayed);
        till.sold.insert(sale.new_quantity);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let [item, quantity] = [1, 2].map(|number| env::args().nth(number).unwrap_or_default());
    let (item, quantity) = (item.parse::<i64>()?, quantity.parse::<Decimal>()?);
    let [host, port, user, name] =
        ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE"].map(|it| env::var(it).unwrap_or_default());
    let config = format!("host={host} port={port} user={user} dbname={name}");
    let till = Rc::new(RefCell::new(Till::default()));
    let tasks = LocalSet::new();
    let workers: Vec<_> =
        (0..8).map(|_| tasks.spawn_local(worker(till.clone(), config.clone(), item, quantity))).collect();
    tasks
        .run_until(async {
            for worker in workers {
                worker.await??;
            }
            Ok::<_, Box<dyn Error>>(())
        })
        .await?;
    let till = till.borrow();
    let report = json!({
        "sold": till.sold.len(),
        "refused": till.refused,
        "replayed": till.replayed,
        "first": till.sold.last().map(Decimal::to_string),
        "available": till.available.map(|left| left.to_string()),
    });
    println!("{report}");
    Ok(())
}
