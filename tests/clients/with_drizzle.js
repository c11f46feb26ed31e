// Sells with drizzle-orm on node-postgres; ids of type bigint.
import { SoldOut, sellInTasks } from './till.js'

import Decimal from 'decimal.js'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import pg from 'pg'

const exact = (text) =>
  JSON.parse(text, (_, value, { source }) => (typeof value === 'number' ? new Decimal(source) : value))
pg.types.setTypeParser(pg.types.builtins.JSON, exact)
const pool = new pg.Pool({ max: 8 })
// docs:begin
const db = drizzle({ client: pool })

async function sell(item, quantity, order, key) {
  const call = sql`SELECT decrement_item(${item}, ${quantity}, ${order}, ${key}) AS result`
  try {
    return (await db.execute(call)).rows[0].result
  } catch (error) {
    const server = error.cause // the error of node-postgres
    if (server?.code !== 'IV001') throw error
    throw new SoldOut(exact(server.detail))
  }
}
// docs:end

await sellInTasks(sell)
await pool.end()
