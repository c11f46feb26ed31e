// How often a call is executed. PostgREST runs a transaction again, without end, when it fails with SQLSTATE 40001.
// Promises shown here: our refusals never start that, native codes reach PostgREST untouched, and a sale that PostgREST
// does repeat is deducted once. Executions are counted in the database, by a sequence that every one of them steps.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { openShop } from './shop.js'

const UNKNOWN = '00000000-0000-4000-8000-000000000000'

for (const [style, insufficient, unknown] of [['sqlstate', 'IV001', 'IV002'], ['postgrest', 'PT409', 'PT404']]) {
  describe(`error style ${style}`, () => {
    let shop
    before(async () => {
      const prepare = (db, roles) =>
        db.query(`ALTER ROLE ${roles.authenticator} SET inventory_ext.error_style = '${style}'`)
      shop = await openShop({ prepare })
    })
    after(() => shop?.close())

    for (const [what, code, call] of [
      ['short', insufficient, (item) => shop.sell(item, 5)],
      ['unknown', unknown, () => shop.sell(UNKNOWN, 1)],
      ['malformed', '22023', (item) => shop.sell(item, -1)]
    ]) {
      test(`100 calls refused as ${what} are exactly 100 executions`, async () => {
        const item = await shop.item('3.00')
        const before = await shop.executions()
        const answers = await Promise.all(Array.from({ length: 100 }, () => call(item)))
        assert.equal((await shop.executions()) - before, 100)
        assert.deepEqual(answers.map(({ error }) => error.code), Array(100).fill(code))
        assert.equal(answers.reduce((sum, { requests }) => sum + requests, 0), 100)
        assert.equal(await shop.stock(item), '3.00')
      })
    }
  })
}

describe('native errors', () => {
  let shop
  before(async () => {
    shop = await openShop({
      callers: ['impatient', 'repeatable'],
      prepare: (db, roles) =>
        db.query(`
          ALTER ROLE ${roles.impatient} SET lock_timeout = '100ms';
          ALTER ROLE ${roles.repeatable} SET default_transaction_isolation = 'repeatable read';
          GRANT EXECUTE ON FUNCTION decrement_inventory TO ${roles.impatient}, ${roles.repeatable}`)
    })
  })
  after(() => shop?.close())

  test('lock_timeout reaches the caller as 55P03, executed once, and changes nothing', async () => {
    const item = await shop.item('11.52')
    const before = await shop.executions()
    const { status, error } = await shop.session(async (other) => {
      await other.query('BEGIN')
      await other.query('SELECT FROM inventory WHERE id = $1 FOR UPDATE', [item])
      return shop.sell(item, 1, { role: shop.roles.impatient })
    })
    assert.equal(status, 500)
    assert.equal(error.code, '55P03')
    assert.equal((await shop.executions()) - before, 1)
    assert.equal(await shop.stock(item), '11.52')
  })

  // The count of 2 shows as well that the counter sees a repetition: the 100s above could have failed.
  test('a serialization failure is repeated by PostgREST, and the sale deducted once', async () => {
    const item = await shop.item('11.52')
    const before = await shop.executions()
    const sale = await shop.session(async (other) => {
      await other.query('BEGIN')
      await other.query('UPDATE inventory SET quantity = quantity - 1 WHERE id = $1', [item])
      const answer = shop.sell(item, 1, { role: shop.roles.repeatable })
      await shop.queued(1)
      await other.query('COMMIT')
      return answer
    })
    assert.equal((await shop.executions()) - before, 2)
    assert.equal(sale.status, 200)
    assert.match(sale.text, /"old_quantity": 10\.52, "new_quantity": 9\.52, "deducted": 1}$/)
    assert.equal(await shop.stock(item), '9.52')
  })
})
