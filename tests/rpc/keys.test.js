// Requests that are sent again: with an Idempotency-Key header, or with p_idempotency_key.
// Promises shown here: however often and however close together a request is sent with one key, it is done once, and
// every answer is the first one; a key never answers for another request; a request that was refused may be sent
// again; without request_headers a header means nothing.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { openShop, refusal } from './shop.js'

const REUSED = 'Idempotency key was used before with other arguments'

for (const [style, reused, insufficient] of [
  ['sqlstate', { status: 400, statusText: 'Bad Request', code: 'IV003' }, 'IV001'],
  ['postgrest', { status: 422, statusText: REUSED, code: 'PT422' }, 'PT409']
]) {
  describe(`keys in error style ${style}`, () => {
    let shop
    const sending = (key, claims) => ({ role: shop.roles.cashier, claims, key })
    before(async () => {
      const prepare = (db, roles) =>
        db.query(`
          ALTER ROLE ${roles.authenticator} SET inventory_ext.error_style = '${style}';
          ALTER ROLE ${roles.authenticator} SET inventory_ext.request_headers = on`)
      shop = await openShop({ prepare })
    })
    after(() => shop?.close())

    test('a sale sent again with its header is deducted once', async () => {
      const [item] = await shop.items(['11.50'])
      const key = randomUUID()
      const answers = []
      for (const quantity of [1, '1.00', 1]) {
        answers.push(await shop.sell(item, quantity, sending(key, { sub: 'anna' })))
      }
      const first =
        `{"success": true, "inventory_id": "${item}", "old_quantity": 11.50, "new_quantity": 10.50, "deducted": 1`
      assert.deepEqual(
        answers.map(({ text }) => text),
        [`${first}}`, `${first}, "replayed": true}`, `${first}, "replayed": true}`]
      )
      assert.equal(await shop.stock(item), '10.50')
      assert.deepEqual(await shop.movements(item), [['sale', '-1.00', null, key, 'anna']])
    })

    test('ten at once are deducted once, and all get the first answer', async () => {
      const [item] = await shop.items(['100.00'])
      const key = randomUUID()
      const answers = await shop.session(async (other) => {
        // The row is held until the first has the key and waits for the row, and the others wait for the first.
        await other.query('BEGIN')
        await other.query('SELECT FROM inventory WHERE id = $1 FOR UPDATE', [item])
        const sales = Promise.all(Array.from({ length: 10 }, () => shop.sell(item, 7, sending(key))))
        await shop.queued(10)
        await other.query('COMMIT')
        return sales
      })
      assert.deepEqual(answers.map(({ status }) => status), Array(10).fill(200))
      assert.equal(answers.filter(({ data }) => data.replayed === undefined).length, 1)
      assert.deepEqual(
        answers.map(({ data: { replayed, ...rest } }) => rest),
        Array(10).fill({ success: true, inventory_id: item, old_quantity: 100, new_quantity: 93, deducted: 7 })
      )
      assert.equal(await shop.stock(item), '93.00')
      assert.equal((await shop.movements(item)).length, 1)
    })

    test('the same key for another request is refused, and changes nothing', async () => {
      const [one, two] = await shop.items(['10.00', '10.00'])
      const key = randomUUID()
      await shop.sell(one, 1, sending(key))
      for (const answer of [
        await shop.sell(one, 2, sending(key)),
        await shop.sell(two, 1, sending(key)),
        await shop.order([[one, 1]], { p_idempotency_key: key }),
        await shop.rpc('restock_inventory', { p_inventory_id: one, p_quantity: 1, p_reference: 'back' }, sending(key))
      ]) {
        const { details, ...head } = refusal(answer)
        assert.deepEqual(head, { ...reused, message: REUSED, data: null, hinted: true })
        assert.deepEqual(
          [details.reason, details.idempotency_key, details.used_by],
          ['key_reused', key, 'decrement_inventory']
        )
      }
      assert.deepEqual(await shop.stocks([one, two]), ['9.00', '10.00'])
    })

    test('an order is the same however its lines are sorted and split', async () => {
      const [one, two] = await shop.items(['10.00', '10.00'])
      const options = { p_reference: 'order 1001', p_idempotency_key: randomUUID() }
      const first = await shop.order([[one, 2], [two, '3.5']], options)
      const again = await shop.order([[two, 3], [one, '2.00'], [two, 0.5]], options)
      assert.equal(again.text, first.text.replace(/}$/, ', "replayed": true}'))
      assert.deepEqual(await shop.stocks([one, two]), ['8.00', '6.50'])
      const other = await shop.order([[one, 2], [two, '3.5']], { ...options, p_reference: 'order 1002' })
      assert.equal(other.error.code, reused.code)
    })

    test('a request that was refused leaves no key behind', async () => {
      const [item] = await shop.items(['1.00'])
      const key = randomUUID()
      assert.equal((await shop.sell(item, 3, sending(key))).error.code, insufficient)
      await shop.rpc('restock_inventory', { p_inventory_id: item, p_quantity: 5 })
      const { data } = await shop.sell(item, 3, sending(key))
      assert.deepEqual([data.new_quantity, data.replayed], [3, undefined])
      assert.equal(await shop.stock(item), '3.00')
    })

    test('an argument goes before the header', async () => {
      const [item] = await shop.items(['1.00'])
      const header = randomUUID()
      const restock = (p_idempotency_key) =>
        shop.rpc('restock_inventory', { p_inventory_id: item, p_quantity: 1, p_idempotency_key }, sending(header))
      const replays = []
      for (const key of ['argument-1', 'argument-2', 'argument-1']) replays.push((await restock(key)).data.replayed)
      assert.deepEqual(replays, [undefined, undefined, true])
      assert.equal(await shop.stock(item), '3.00')
    })

    test('a header that is too long is a bad request', async () => {
      const [item] = await shop.items(['1.00'])
      const { status, error } = await shop.sell(item, 1, sending('k'.repeat(256)))
      assert.deepEqual([status, error.code, JSON.parse(error.details).reason], [400, '22023', 'text_length'])
      assert.equal(await shop.stock(item), '1.00')
    })
  })
}

describe('headers that do not count', () => {
  let shop
  before(async () => (shop = await openShop()))
  after(() => shop?.close())

  test('by default a header means nothing: two requests are two sales', async () => {
    const [item] = await shop.items(['10.00'])
    const caller = { role: shop.roles.cashier, key: randomUUID() }
    const answers = [await shop.sell(item, 1, caller), await shop.sell(item, 1, caller)]
    assert.deepEqual(answers.map(({ data }) => [data.new_quantity, data.replayed]), [[9, undefined], [8, undefined]])
    assert.deepEqual((await shop.movements(item)).map(([, , , key]) => key), [null, null])
  })
})

// Under REPEATABLE READ a key that was committed meanwhile is a serialization failure, which PostgREST repeats by
// itself.
describe('a key and REPEATABLE READ', () => {
  let shop
  before(async () => {
    shop = await openShop({
      callers: ['repeatable'],
      prepare: (db, roles) =>
        db.query(`
          ALTER ROLE ${roles.repeatable} SET default_transaction_isolation = 'repeatable read';
          GRANT EXECUTE ON FUNCTION restock_inventory TO ${roles.repeatable}`)
    })
  })
  after(() => shop?.close())

  test('the second run of PostgREST gets the answer', async () => {
    const [item] = await shop.items(['10.00'])
    const key = randomUUID()
    const before = await shop.executions()
    const { status, data } = await shop.session(async (other) => {
      await other.query('BEGIN')
      await other.query('SELECT restock_inventory($1, 2, p_idempotency_key => $2)', [item, key])
      const args = { p_inventory_id: item, p_quantity: 2, p_idempotency_key: key }
      const answer = shop.rpc('restock_inventory', args, { role: shop.roles.repeatable })
      await shop.queued(1)
      await other.query('COMMIT')
      return answer
    })
    assert.deepEqual([status, data.new_quantity, data.replayed], [200, 12, true])
    assert.equal((await shop.executions()) - before, 2)
    assert.equal(await shop.stock(item), '12.00')
  })
})
