// Orders, and the other changes of stock, over RPC, in both error styles.
// Promises shown here: an order is taken whole or not at all, and a refusal names every line that is short or wrong,
// and its reference, without a word of the caller's in the HTTP status line; what changed is in the ledger, with the
// reference and the subject of the token; what is for upkeep, and the ledger itself, cannot be reached.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { openShop, refusal } from './shop.js'

const UNKNOWN = '00000000-0000-4000-8000-000000000000'

const styles = {
  sqlstate: {
    insufficient: (available, requested) => ({
      status: 400,
      statusText: 'Bad Request',
      code: 'IV001',
      message: `Insufficient inventory. Available: ${available}, Requested: ${requested}`
    }),
    unknown: { status: 400, statusText: 'Bad Request', code: 'IV002' },
    stale: {
      status: 400,
      statusText: 'Bad Request',
      code: 'IV005',
      message: 'Inventory has changed. Expected: 9, Found: 10.00'
    }
  },
  postgrest: {
    insufficient: () => ({
      status: 409,
      statusText: 'Insufficient inventory',
      code: 'PT409',
      message: 'Insufficient inventory'
    }),
    unknown: { status: 404, statusText: 'Inventory item not found', code: 'PT404' },
    stale: { status: 409, statusText: 'Inventory has changed', code: 'PT409', message: 'Inventory has changed' }
  }
}

for (const [style, expected] of Object.entries(styles)) {
  describe(`orders in error style ${style}`, () => {
    let shop
    before(async () => {
      const prepare = (db, roles) =>
        db.query(`
          ALTER ROLE ${roles.authenticator} SET inventory_ext.error_style = '${style}';
          ALTER ROLE ${roles.authenticator} SET inventory_ext.max_batch_lines = 6`)
      shop = await openShop({ prepare })
    })
    after(() => shop?.close())

    async function untouched(items, quantities) {
      assert.deepEqual(await shop.stocks(items), quantities)
      for (const item of items) assert.deepEqual(await shop.movements(item), [])
    }

    test('five lines, the third one short: nothing is taken, and the error names it', async () => {
      const stock = ['10.00', '10.00', '2.50', '10.00', '10.00']
      const items = await shop.items(stock)
      const lines = items.map((item) => [item, 3])
      assert.deepEqual(refusal(await shop.order(lines, { p_reference: 'order 1001' })), {
        ...expected.insufficient('2.50', 3),
        data: null,
        details: {
          reason: 'short_lines',
          lines: [{ reason: 'insufficient', inventory_id: items[2], available: 2.5, requested: 3 }],
          reference: 'order 1001'
        },
        hinted: true
      })
      await untouched(items, stock)
    })

    test('every short line is named, unknown items too, in the order of the lines', async () => {
      const stock = ['1.00', '10.00', '2.00']
      const [one, two, three] = await shop.items(stock)
      const answer = await shop.order([[three, 5], [UNKNOWN, 1], [two, 10], [one, 1], [one, 0.5]])
      const { details, ...head } = refusal(answer)
      assert.deepEqual(head, { ...expected.insufficient('2.00', 5), data: null, hinted: true })
      assert.deepEqual(details, {
        reason: 'short_lines',
        lines: [
          { reason: 'insufficient', inventory_id: three, available: 2, requested: 5 },
          { reason: 'unknown_item', inventory_id: UNKNOWN, requested: 1 },
          { reason: 'insufficient', inventory_id: one, available: 1, requested: 1.5 }
        ]
      })
      await untouched([one, two, three], stock)
    })

    test('unknown items alone', async () => {
      const [one] = await shop.items(['10.00'])
      assert.deepEqual(refusal(await shop.order([[one, 1], [UNKNOWN, 1]])), {
        ...expected.unknown,
        message: 'Inventory item not found',
        data: null,
        details: { reason: 'short_lines', lines: [{ reason: 'unknown_item', inventory_id: UNKNOWN, requested: 1 }] },
        hinted: true
      })
      await untouched([one], ['10.00'])
    })

    test('line breaks in a reference stay out of the status line and the headers', async () => {
      const [one] = await shop.items(['1.00'])
      const p_items = [{ inventory_id: one, quantity: 2 }]
      const p_reference = 'order\r\nX-Injected: yes'
      const answer = await shop.post('decrement_inventory_batch', JSON.stringify({ p_items, p_reference }))
      assert.equal(answer.statusText, expected.insufficient('1.00', 2).statusText)
      assert.equal(answer.headers.get('x-injected'), null)
      assert.equal(JSON.parse((await answer.json()).details).reference, p_reference)
    })

    test('a count that expects another stock', async () => {
      const [one] = await shop.items(['10.00'])
      const args = { p_inventory_id: one, p_counted_quantity: 4, p_expected_quantity: 9, p_reason: 'shelf' }
      assert.deepEqual(refusal(await shop.rpc('adjust_inventory', args)), {
        ...expected.stale,
        data: null,
        details: { reason: 'stale', inventory_id: one, expected: 9, found: 10, reference: 'shelf' },
        hinted: true
      })
      await untouched([one], ['10.00'])
    })

    // The same in both styles: what is wrong with any stock.
    for (const [what, items, status, code, facts] of [
      ['no array', { inventory_id: UNKNOWN, quantity: 1 }, 400, '22023', { reason: 'not_an_array', type: 'object' }],
      ['no lines', [], 400, '22023', { reason: 'no_lines' }],
      ['NULL', null, 400, '22004', { reason: 'null_argument' }],
      ['a line without a quantity', [{ inventory_id: UNKNOWN }], 400, '22023', { reason: 'no_quantity', element: 0 }],
      [
        'a stranger in a line',
        [{ inventory_id: UNKNOWN, quantity: 1, sku: 7 }],
        400,
        '22023',
        { reason: 'unknown_key', element: 0 }
      ],
      [
        'a bad second line',
        [{ inventory_id: UNKNOWN, quantity: 1 }, { inventory_id: UNKNOWN, quantity: -1 }],
        400,
        '22023',
        { reason: 'not_positive', element: 1 }
      ],
      [
        'more decimals than the column keeps',
        [{ inventory_id: UNKNOWN, quantity: 0.1 + 0.2 }],
        400,
        '22003',
        { reason: 'too_many_decimals', element: 0 }
      ],
      [
        'too many lines',
        Array(7).fill({ inventory_id: UNKNOWN, quantity: 1 }),
        413,
        '54000',
        { reason: 'too_many_lines', lines: 7, max_lines: 6 }
      ]
    ]) {
      test(what, async () => {
        const answer = await shop.rpc('decrement_inventory_batch', { p_items: items })
        const { details } = refusal(answer)
        assert.deepEqual([answer.status, answer.error.code], [status, code])
        assert.deepEqual(details, { ...details, ...facts })
      })
    }
  })
}

describe('changes of stock', () => {
  let shop
  const anna = () => ({ role: shop.roles.cashier, claims: { sub: 'anna' } })
  before(async () => (shop = await openShop()))
  after(() => shop?.close())

  test('an order: its answer digit by digit, in the order of the lines, and its movements', async () => {
    const [one, two] = await shop.items(['11.50', '3.00'])
    const answer = await shop.order([[two, '1.50'], [one, 1], [two, '0.50']], { p_reference: 'order 1002' }, anna())
    assert.equal(answer.status, 200)
    assert.equal(
      answer.text,
      '{"success": true, "lines": [' +
        `{"inventory_id": "${two}", "old_quantity": 3.00, "new_quantity": 1.00, "deducted": 2.00}, ` +
        `{"inventory_id": "${one}", "old_quantity": 11.50, "new_quantity": 10.50, "deducted": 1}], "short": []}`
    )
    assert.deepEqual(await shop.movements(one), [['sale', '-1.00', 'order 1002', null, 'anna']])
    assert.deepEqual(await shop.movements(two), [['sale', '-2.00', 'order 1002', null, 'anna']])
  })

  test('skip and partial say what was left out', async () => {
    for (const [p_on_shortage, deducted, left] of [['skip', 0, ['9.00', '2.00']], ['partial', 2, ['9.00', '0.00']]]) {
      const items = await shop.items(['10.00', '2.00'])
      const { status, data } = await shop.order([[items[1], 5], [UNKNOWN, 1], [items[0], 1]], { p_on_shortage })
      assert.equal(status, 200)
      assert.deepEqual(data.short, [
        { reason: 'insufficient', inventory_id: items[1], available: 2, requested: 5, deducted },
        { reason: 'unknown_item', inventory_id: UNKNOWN, requested: 1 }
      ])
      assert.deepEqual(await shop.stocks(items), left)
    }
  })

  test('restock, count and transfer', async () => {
    const [one, two] = await shop.items(['1.00', '2.00'])
    const calls = [
      ['restock_inventory', { p_inventory_id: one, p_quantity: '4.50', p_reference: 'delivery 7' }],
      [
        'adjust_inventory',
        { p_inventory_id: one, p_counted_quantity: 5, p_expected_quantity: '5.5', p_reason: 'shelf' }
      ],
      ['transfer_inventory', { p_from: one, p_to: two, p_quantity: 3, p_reference: 'to town' }]
    ]
    const texts = []
    for (const [fn, args] of calls) texts.push((await shop.rpc(fn, args, anna())).text)
    assert.deepEqual(texts, [
      `{"success": true, "inventory_id": "${one}", "old_quantity": 1.00, "new_quantity": 5.50, "added": 4.50}`,
      `{"success": true, "inventory_id": "${one}", "old_quantity": 5.50, "new_quantity": 5.00, "adjusted": -0.50}`,
      `{"success": true, "from": {"inventory_id": "${one}", "old_quantity": 5.00, "new_quantity": 2.00}, ` +
        `"to": {"inventory_id": "${two}", "old_quantity": 2.00, "new_quantity": 5.00}, "transferred": 3}`
    ])
    assert.deepEqual(await shop.movements(one), [
      ['restock', '4.50', 'delivery 7', null, 'anna'],
      ['adjustment', '-0.50', 'shelf', null, 'anna'],
      ['transfer', '-3.00', 'to town', null, 'anna']
    ])
    assert.deepEqual(await shop.movements(two), [['transfer', '3.00', 'to town', null, 'anna']])
  })

  test('twenty orders at once, each of the same two items the other way round than the one before', async () => {
    const items = await shop.items(['100.00', '100.00'])
    const orders = Array.from({ length: 20 }, (_, n) => (n % 2 ? items : items.toReversed()).map((item) => [item, 1]))
    const answers = await Promise.all(orders.map((lines) => shop.order(lines)))
    assert.deepEqual(answers.map(({ status }) => status), Array(20).fill(200))
    assert.deepEqual(await shop.stocks(items), ['80.00', '80.00'])
  })
})

describe('what cannot be reached', () => {
  let shop
  before(async () => (shop = await openShop()))
  after(() => shop?.close())

  test('upkeep: attach, detach and purge', async () => {
    const calls = {
      attach_inventory: { p_table: 'inventory' },
      detach_inventory: {},
      purge_requests: { p_older_than: '0' }
    }
    for (const [fn, args] of Object.entries(calls)) {
      for (const [caller, status] of [[undefined, 403], [{}, 401]]) {
        const answer = await shop.rpc(fn, args, caller)
        assert.deepEqual([answer.status, answer.error.code], [status, '42501'], fn)
      }
    }
    const [one] = await shop.items(['1.00'])
    assert.equal((await shop.sell(one, 1)).status, 200)
  })

  test('the trigger functions are no functions to PostgREST', async () => {
    for (const fn of ['begin', 'record', 'flush', 'guard']) {
      const { status, error } = await shop.rpc(`inventory_movement_${fn}`, {})
      assert.deepEqual([status, error.code], [404, 'PGRST202'])
    }
  })

  test('ledger, keys and stock cannot be read or written', async () => {
    const [one] = await shop.items(['5.00'])
    await shop.rpc('restock_inventory', { p_inventory_id: one, p_quantity: 1, p_idempotency_key: 'secret' })
    const columns = {
      inventory: 'quantity',
      inventory_movement: 'actor',
      inventory_request: 'function_name',
      inventory_attachment: 'run_as'
    }
    for (const [table, column] of Object.entries(columns)) {
      const body = `{"${column}": null}`
      for (const [method, sent] of [['GET'], ['DELETE'], ['PATCH', body], ['POST', body]]) {
        const answer = await shop.request(`/${table}`, { method, body: sent })
        assert.equal(answer.status, 403, `${method} ${table}`)
        assert.equal((await answer.json()).code, '42501')
      }
    }
  })
})
