import { sql } from 'drizzle-orm'
import { bigint, check, numeric, pgSequence, pgTable, text } from 'drizzle-orm/pg-core'

// docs:begin
export const inventory = pgTable(
  'inventory',
  {
    id: bigint({ mode: 'bigint' }).primaryKey(),
    quantity: numeric({ precision: 28, scale: 18 }).notNull(),
    name: text()
  },
  // attach_inventory makes this CHECK; push drops a CHECK that is not declared
  (table) => [check('quantity_non_negative', sql`${table.quantity} >= 0`)]
)
// tablesFilter leaves out the ledger and the audits, but not the sequences of their identity columns
export const movementIds = pgSequence('inventory_movement_movement_id_seq', {
  minValue: 1,
  maxValue: '9223372036854775807'
})
// from the first audit on
export const auditIds = pgSequence('inventory_audit_run_id_seq', {
  minValue: 1,
  maxValue: '9223372036854775807'
})
// docs:end

export const shopOrder = pgTable('shop_order', { reference: text().primaryKey() })
