// Items whose ids are no uuids: a real PostgREST, the real client.
// Promises shown here: an id may be a JSON number or a string, and keeps all its digits; the result has a number for
// integer ids and a string for others; an id that the table cannot have is a bad request and changes nothing; a key
// counts once however the id is written.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { openShop, refusal } from './shop.js'

const BIG = '9007199254740993' // 2^53 + 1: no JavaScript number is that, the nearest is one less
const UUID = 'aaaaaaaa-0000-4000-8000-000000000001'

// `spellings` of one id, which the result shows as `shown`; `other` is another id; `wrong` are no ids of the type.
const types = {
  bigint: {
    spellings: [1001, '1001', '01001'],
    shown: '1001',
    other: -7,
    wrong: ['one', '', 1.5, '9223372036854775808']
  },
  integer: { spellings: [1001, '1001'], shown: '1001', other: 2, wrong: ['one', 2147483648, BIG, UUID] },
  text: { spellings: ['1001', 1001], shown: '"1001"', other: 'Größe "L", sku \'7\'', wrong: [] },
  varchar: { spellings: ['coffee'], shown: '"coffee"', other: 'tea ☕', wrong: [] },
  uuid: { spellings: [UUID, UUID.toUpperCase()], shown: `"${UUID}"`, other: randomUUID(), wrong: ['one', 1001, ''] }
}

for (const [type, { spellings, shown, other, wrong }] of Object.entries(types)) {
  describe(`ids of type ${type}`, () => {
    const id = spellings[0]
    let shop
    const sell = (p_item, options, caller) =>
      shop.rpc('decrement_item', { p_item, p_quantity: 1, ...options }, caller)
    before(async () => {
      const prepare = (db, roles) =>
        db.query(`GRANT EXECUTE ON FUNCTION decrement_item, available_inventory TO ${roles.cashier};
                  ALTER ROLE ${roles.authenticator} SET inventory_ext.request_headers = on`)
      shop = await openShop({ id: type, prepare })
      await shop.put(id, '100.00')
      await shop.put(other, '100.00')
    })
    after(() => shop?.close())

    for (const spelling of spellings) {
      test(`decrement_item sells ${JSON.stringify(spelling)}`, async () => {
        const before = Number(await shop.stock(id))
        const { status, text, data } = await sell(spelling, { p_quantity: '0.50', p_reference: 'order 7' })
        assert.equal(status, 200, text)
        assert.ok(text.startsWith(`{"success": true, "inventory_id": ${shown}, "old_quantity": `), text)
        assert.deepEqual([data.inventory_id, data.old_quantity, data.new_quantity, data.deducted], [
          JSON.parse(shown),
          before,
          before - 0.5,
          0.5
        ])
        assert.equal(await shop.stock(id), (before - 0.5).toFixed(2))
        assert.deepEqual((await shop.movements(id)).at(-1).slice(0, 3), ['sale', '-0.50', 'order 7'])
      })
    }

    test('an order takes all spellings of an id as one line', async () => {
      const { status, data, text } = await shop.order([[other, 1], ...spellings.map((spelling) => [spelling, '0.25'])])
      assert.equal(status, 200, text)
      assert.deepEqual(
        data.lines.map(({ inventory_id, deducted }) => [inventory_id, deducted]),
        [[other, 1], [JSON.parse(shown), 0.25 * spellings.length]]
      )
    })

    test('the other functions take them, too', async () => {
      const last = spellings.at(-1)
      const item = { p_inventory_id: last }
      const count = { ...item, p_counted_quantity: 80, p_idempotency_key: 'count' }
      const restocked = await shop.rpc('restock_inventory', { ...item, p_quantity: 5 })
      const adjusted = await shop.rpc('adjust_inventory', count)
      const moved = await shop.rpc('transfer_inventory', { p_from: last, p_to: other, p_quantity: 1 })
      const left = await shop.rpc('available_inventory', item)
      assert.deepEqual([restocked, adjusted, moved, left].map(({ status }) => status), [200, 200, 200, 200])
      const { from, to } = moved.data
      assert.deepEqual(
        [restocked.data, adjusted.data, from, to].map(({ inventory_id }) => inventory_id),
        [...Array(3).fill(JSON.parse(shown)), other]
      )
      assert.equal(left.text, '79.00')
    })

    for (const way of ['p_idempotency_key', 'Idempotency-Key']) {
      test(`a sale that is sent again with ${way} is deducted once, however the id is written`, async () => {
        const key = randomUUID()
        const before = Number(await shop.stock(id))
        const answers = []
        for (const spelling of [...spellings, id]) {
          const asArgument = way === 'p_idempotency_key'
          const caller = { role: shop.roles.cashier, key: asArgument ? undefined : key }
          answers.push(await sell(spelling, asArgument ? { p_idempotency_key: key } : {}, caller))
        }
        const [first, ...again] = answers.map(({ text }) => text)
        assert.match(first, /"deducted": 1}$/)
        assert.deepEqual(again, Array(again.length).fill(first.replace(/}$/, ', "replayed": true}')))
        assert.equal(Number(await shop.stock(id)), before - 1)
        const others = await sell(other, { p_idempotency_key: key })
        assert.deepEqual([others.status, others.error.code], [400, 'IV003'])
      })
    }

    for (const value of wrong) {
      test(`${JSON.stringify(value)} is no id of the type`, async () => {
        const stocks = await shop.db.query('SELECT id, quantity FROM inventory ORDER BY id')
        const { hinted, data, ...answer } = refusal(await sell(value))
        assert.deepEqual([hinted, data], [true, null])
        assert.deepEqual(answer, {
          status: 400,
          statusText: 'Bad Request',
          code: '22P02',
          message: `p_item is not an id of type ${type}`,
          details: { reason: 'not_an_id', argument: 'p_item', value: String(value), type }
        })
        const line = await shop.order([[id, 1], [value, 1]])
        assert.equal(line.status, 400, line.text)
        assert.equal(JSON.parse(line.error.details).element, 1)
        assert.deepEqual((await shop.db.query('SELECT id, quantity FROM inventory ORDER BY id')).rows, stocks.rows)
      })
    }

    test('decrement_inventory is for uuids', async () => {
      const { status, error } = await shop.sell(type === 'uuid' ? id : UUID, 1)
      assert.deepEqual([status, error?.code], type === 'uuid' ? [200, undefined] : [500, '55000'])
      if (error) assert.equal(JSON.parse(error.details).reason, 'no_uuids')
    })
  })
}

describe('ids of more than 53 bits', () => {
  let shop
  const neighbour = String(BigInt(BIG) - 1n)
  before(async () => {
    shop = await openShop({
      id: 'bigint',
      prepare: (db, roles) => db.query(`GRANT EXECUTE ON FUNCTION decrement_item TO ${roles.cashier}`)
    })
    for (const id of [BIG, neighbour, '9223372036854775807']) await shop.put(id, '10.00')
  })
  after(() => shop?.close())

  test('a string keeps every digit, in an item and in an order', async () => {
    for (const id of [BIG, '9223372036854775807']) {
      const sold = await shop.rpc('decrement_item', { p_item: id, p_quantity: 1 })
      assert.ok(sold.text.startsWith(`{"success": true, "inventory_id": ${id}, "old_quantity": 10.00, `), sold.text)
      const ordered = await shop.order([[id, 2]])
      assert.ok(ordered.text.includes(`"inventory_id": ${id}, "old_quantity": 9.00, `), ordered.text)
    }
    assert.deepEqual(await shop.stocks([BIG, neighbour]), ['7.00', '10.00'])
  })

  test('so does a JSON number, but not in JavaScript', async () => {
    const item = `{"p_item": ${BIG}, "p_quantity": 1}`
    const order = `{"p_items": [{"inventory_id": ${BIG}, "quantity": 1}]}`
    for (const [fn, body] of [['decrement_item', item], ['decrement_inventory_batch', order]]) {
      const answer = await shop.post(fn, body)
      assert.ok((await answer.text()).includes(`"inventory_id": ${BIG}, `))
    }
    const before = await shop.stocks([BIG, neighbour])
    const { data } = await shop.rpc('decrement_item', { p_item: Number(BIG), p_quantity: 1 })
    assert.equal(data.inventory_id, Number(neighbour))
    assert.deepEqual(await shop.stocks([BIG, neighbour]), [before[0], '9.00'])
  })
})
