// Who may sell over RPC: EXECUTE decides, and with p_run_as => 'caller' the caller's own grants and row-level security.
// Promises shown here: without EXECUTE nothing is sold and nothing about the stock is shown; one tenant's items answer
// another tenant exactly as items that do not exist.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { openShop, refusal } from './shop.js'

describe('EXECUTE', () => {
  let shop
  before(async () => (shop = await openShop({ callers: ['visitor'] })))
  after(() => shop?.close())

  const denied = {
    data: null,
    code: '42501',
    message: 'permission denied for function decrement_inventory',
    details: null,
    hinted: false
  }

  test('a caller without a token is sent to log in', async () => {
    const item = await shop.item('11.52')
    assert.deepEqual(refusal(await shop.sell(item, 1, {})), { ...denied, status: 401, statusText: 'Unauthorized' })
    assert.equal(await shop.stock(item), '11.52')
  })

  test('a caller with a token but without EXECUTE is forbidden', async () => {
    const item = await shop.item('11.52')
    const answer = await shop.sell(item, 1, { role: shop.roles.visitor })
    assert.deepEqual(refusal(answer), { ...denied, status: 403, statusText: 'Forbidden' })
    assert.equal(await shop.stock(item), '11.52')
  })

  test('a cashier needs EXECUTE and nothing else', async () => {
    const item = await shop.item('11.52')
    const { rows } = await shop.db.query(
      `SELECT has_table_privilege($1, 'inventory', 'SELECT, INSERT, UPDATE, DELETE') AS any_right`,
      [shop.roles.cashier]
    )
    assert.equal(rows[0].any_right, false)
    assert.equal((await shop.sell(item, 1)).status, 200)
    assert.equal(await shop.stock(item), '10.52')
  })

  test('a cashier may not attach or detach', async () => {
    for (const [fn, args] of [['attach_inventory', { p_table: 'inventory' }], ['detach_inventory', {}]]) {
      const { status, error } = await shop.rpc(fn, args)
      assert.equal(status, 403)
      assert.equal(error.code, '42501')
    }
  })
})

describe("p_run_as => 'caller'", () => {
  let shop
  const as = (tenant) => ({ role: shop.roles.cashier, claims: { tenant } })
  before(async () => {
    shop = await openShop({
      callers: ['guest'],
      prepare: (db, roles) =>
        db.query(`
          SELECT detach_inventory();
          ALTER TABLE inventory ADD COLUMN tenant text;
          ALTER TABLE inventory ENABLE ROW LEVEL SECURITY;
          CREATE POLICY own_stock ON inventory
            USING (tenant = current_setting('request.jwt.claims', true)::json ->> 'tenant');
          GRANT SELECT, UPDATE ON inventory TO ${roles.cashier};
          GRANT EXECUTE ON FUNCTION decrement_inventory TO ${roles.guest};
          SELECT attach_inventory('inventory', p_run_as => 'caller')`)
    })
  })
  after(() => shop?.close())

  async function itemOf(tenant, quantity) {
    const item = await shop.item(quantity)
    await shop.db.query('UPDATE inventory SET tenant = $2 WHERE id = $1', [item, tenant])
    return item
  }

  test('a tenant sells from its own stock', async () => {
    const item = await itemOf('anna', '11.52')
    const { status, data } = await shop.sell(item, 1, as('anna'))
    assert.equal(status, 200)
    assert.equal(data.new_quantity, 10.52)
    assert.equal(await shop.stock(item), '10.52')
  })

  test("another tenant's item answers just like an unknown one", async () => {
    const item = await itemOf('anna', '11.52')
    for (const quantity of [1, 100]) {
      const theirs = await shop.sell(item, quantity, as('bert'))
      const nothing = await shop.sell('00000000-0000-4000-8000-000000000000', quantity, as('bert'))
      assert.equal(theirs.status, 400)
      assert.equal(theirs.error.code, 'IV002')
      assert.equal(theirs.text.replaceAll(item, '<id>'), nothing.text.replaceAll(/0{8}-0{4}-4000-8000-0{12}/g, '<id>'))
    }
    assert.equal(await shop.stock(item), '11.52')
  })

  test('a caller without rights on the table is refused by the table', async () => {
    const item = await itemOf('anna', '11.52')
    const { status, error } = await shop.sell(item, 1, { role: shop.roles.guest, claims: { tenant: 'anna' } })
    assert.equal(status, 403)
    assert.equal(error.code, '42501')
    assert.equal(error.message, 'permission denied for table inventory')
    assert.equal(await shop.stock(item), '11.52')
  })
})
