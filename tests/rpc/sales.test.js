// Sales over RPC that succeed: a real PostgREST, the real client.
// Promises shown here: concurrent sales of one item all count, and a quantity goes in and comes out digit by digit.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { openShop } from './shop.js'

describe('sales from numeric(12,2)', () => {
  let shop
  before(async () => (shop = await openShop()))
  after(() => shop?.close())

  test('five concurrent sales of 1 from 11.52 leave 6.52', async () => {
    const item = await shop.item('11.52')
    const sales = await shop.session(async (other) => {
      // The row is held until all five stand in the queue: they are concurrent for certain, not by luck.
      await other.query('BEGIN')
      await other.query('SELECT FROM inventory WHERE id = $1 FOR UPDATE', [item])
      const answers = Promise.all(Array.from({ length: 5 }, () => shop.sell(item, 1)))
      await shop.queued(5)
      await other.query('COMMIT')
      return answers
    })

    assert.deepEqual(sales.map(({ status, error }) => ({ status, error })), Array(5).fill({ status: 200, error: null }))
    const answers = sales.map(({ data }) => data).sort((a, b) => b.old_quantity - a.old_quantity)
    assert.deepEqual(
      answers.map(({ old_quantity, new_quantity }) => [old_quantity, new_quantity]),
      [[11.52, 10.52], [10.52, 9.52], [9.52, 8.52], [8.52, 7.52], [7.52, 6.52]]
    )
    assert.equal(await shop.stock(item), '6.52')
  })

  test('the answer has exactly five keys, in order, and keeps its digits', async () => {
    const item = await shop.item('11.50')
    const { status, data, text } = await shop.sell(item, 1)
    assert.equal(status, 200)
    assert.equal(
      text,
      `{"success": true, "inventory_id": "${item}", "old_quantity": 11.50, "new_quantity": 10.50, "deducted": 1}`
    )
    assert.deepEqual(data, { success: true, inventory_id: item, old_quantity: 11.5, new_quantity: 10.5, deducted: 1 })
  })

  test('a quantity may be a JSON number or a string, with its trailing zeros', async () => {
    const item = await shop.item('1.00')
    const asString = await shop.sell(item, '0.10')
    assert.match(asString.text, /"old_quantity": 1\.00, "new_quantity": 0\.90, "deducted": 0\.10}$/)

    const asNumber = await shop.post('decrement_inventory', `{"p_quantity": 0.10, "p_inventory_id": "${item}"}`)
    assert.equal(asNumber.status, 200)
    assert.match(await asNumber.text(), /"old_quantity": 0\.90, "new_quantity": 0\.80, "deducted": 0\.10}$/)
    assert.equal(await shop.stock(item), '0.80')
  })

  test('ten sales of 0.1 leave nothing of 1.00', async () => {
    const item = await shop.item('1.00')
    const sales = await Promise.all(Array.from({ length: 10 }, () => shop.sell(item, 0.1)))
    assert.deepEqual(sales.map(({ status }) => status), Array(10).fill(200))
    assert.equal(await shop.stock(item), '0.00')
  })

  test('a float that is not what it seems is refused, not rounded', async () => {
    const item = await shop.item('1.00')
    const { status, error } = await shop.sell(item, 0.1 + 0.2)
    assert.equal(status, 400)
    assert.equal(error.code, '22003')
    assert.equal(JSON.parse(error.details).reason, 'too_many_decimals')
    assert.match(error.details, /"value": 0\.30000000000000004,/)
    assert.equal(await shop.stock(item), '1.00')
  })
})

describe('sales from numeric(25,5)', () => {
  let shop
  before(async () => (shop = await openShop({ column: 'numeric(25,5)' })))
  after(() => shop?.close())

  test('25 digits go in and come out exactly', async () => {
    const item = await shop.item('98765432109876543210.12345')
    const { status, text } = await shop.sell(item, '12345678901234567890.12344')
    assert.equal(status, 200)
    assert.equal(
      text,
      `{"success": true, "inventory_id": "${item}", "old_quantity": 98765432109876543210.12345, ` +
        '"new_quantity": 86419753208641975320.00001, "deducted": 12345678901234567890.12344}'
    )
    assert.equal(await shop.stock(item), '86419753208641975320.00001')
  })

  test('25 digits in a JSON number are read exactly', async () => {
    const item = await shop.item('98765432109876543210.12345')
    const sold = await shop.post(
      'decrement_inventory',
      `{"p_inventory_id": "${item}", "p_quantity": 98765432109876543210.12344}`
    )
    assert.equal(sold.status, 200)
    assert.match(await sold.text(), /"new_quantity": 0\.00001, "deducted": 98765432109876543210\.12344}$/)
    assert.equal(await shop.stock(item), '0.00001')
  })
})
