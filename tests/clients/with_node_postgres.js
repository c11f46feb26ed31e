// Sells with node-postgres; ids of type text.
import { SoldOut, sellInTasks } from './till.js'

// docs:begin
import Decimal from 'decimal.js'
import pg from 'pg'

// JSON.parse alone would make floats of the quantities; `source` has all their digits (Node.js 22)
const exact = (text) =>
  JSON.parse(text, (_, value, { source }) => (typeof value === 'number' ? new Decimal(source) : value))
pg.types.setTypeParser(pg.types.builtins.JSON, exact)
const pool = new pg.Pool({ max: 8 })

async function sell(item, quantity, order, key) {
  const call = 'SELECT decrement_item($1, $2, p_reference => $3, p_idempotency_key => $4) AS result'
  try {
    return (await pool.query(call, [item, quantity, order, key])).rows[0].result
  } catch (error) {
    if (error.code !== 'IV001') throw error
    throw new SoldOut(exact(error.detail))
  }
}
// docs:end

await sellInTasks(sell)
await pool.end()
