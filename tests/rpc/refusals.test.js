// Refusals over RPC, in both error styles: the HTTP status, and PostgreSQL's code, message, details and hint.
// Promises shown here: a refusal changes nothing, its DETAIL is one JSON object, and no text of a caller's ever reaches
// the HTTP status line, where PostgREST puts the message of a PTnnn error.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { openShop, refusal } from './shop.js'

const UNKNOWN = '00000000-0000-4000-8000-000000000000'

// The same in both styles: a call that is wrong with any stock.
const badCalls = {
  'NULL id': {
    id: null,
    code: '22004',
    message: 'p_inventory_id must not be null',
    details: { reason: 'null_argument', argument: 'p_inventory_id' }
  },
  NULL: {
    quantity: null,
    code: '22004',
    message: 'p_quantity must not be null',
    details: { reason: 'null_argument', argument: 'p_quantity' }
  },
  NaN: {
    quantity: 'NaN',
    code: '22023',
    message: 'p_quantity must be a finite number',
    details: { reason: 'not_finite', argument: 'p_quantity', value: 'NaN' }
  },
  Infinity: {
    quantity: 'Infinity',
    code: '22023',
    message: 'p_quantity must be a finite number',
    details: { reason: 'not_finite', argument: 'p_quantity', value: 'Infinity' }
  },
  negative: {
    quantity: -1,
    code: '22023',
    message: 'p_quantity must be greater than zero',
    details: { reason: 'not_positive', argument: 'p_quantity', value: -1 }
  },
  zero: {
    quantity: 0,
    code: '22023',
    message: 'p_quantity must be greater than zero',
    details: { reason: 'not_positive', argument: 'p_quantity', value: 0 }
  },
  'too many decimals': {
    quantity: 0.005,
    code: '22003',
    message: 'p_quantity has more digits than can be kept',
    details: { reason: 'too_many_decimals', argument: 'p_quantity', value: 0.005, column: 'quantity', max_decimals: 2 }
  }
}

const styles = {
  sqlstate: {
    insufficient: {
      status: 400,
      statusText: 'Bad Request',
      code: 'IV001',
      message: (available, requested) => `Insufficient inventory. Available: ${available}, Requested: ${requested}`
    },
    unknown: { status: 400, statusText: 'Bad Request', code: 'IV002' },
    altered: { status: 400, statusText: 'Bad Request', code: 'IV007' }
  },
  postgrest: {
    insufficient: {
      status: 409,
      statusText: 'Insufficient inventory',
      code: 'PT409',
      message: () => 'Insufficient inventory'
    },
    unknown: { status: 404, statusText: 'Inventory item not found', code: 'PT404' },
    altered: { status: 500, statusText: 'Inventory verification failed', code: 'PT500' }
  }
}

for (const [style, expected] of Object.entries(styles)) {
  describe(`error style ${style}`, () => {
    let shop
    before(async () => {
      // `sqlstate` is the default and is left unset, so this also shows the default.
      const prepare = async (db, roles) => {
        if (style !== 'sqlstate') {
          await db.query(`ALTER ROLE ${roles.authenticator} SET inventory_ext.error_style = '${style}'`)
        }
      }
      shop = await openShop({ prepare })
    })
    after(() => shop?.close())

    test('insufficient stock', async () => {
      for (const [quantity, requested] of [['3.00', '5'], ['0.00', '0.01'], ['7.25', '7.26']]) {
        const item = await shop.item(quantity)
        const answer = await shop.sell(item, requested)
        const { message, ...head } = expected.insufficient
        assert.deepEqual(refusal(answer), {
          ...head,
          message: message(quantity, requested),
          data: null,
          details: {
            reason: 'insufficient',
            inventory_id: item,
            available: Number(quantity),
            requested: Number(requested)
          },
          hinted: true
        })
        assert.ok(answer.error.details.includes(`"available": ${quantity}, "requested": ${requested}`))
        assert.equal(await shop.stock(item), quantity)
      }
    })

    test('unknown item', async () => {
      assert.deepEqual(refusal(await shop.sell(UNKNOWN, 1)), {
        ...expected.unknown,
        message: 'Inventory item not found',
        data: null,
        details: { reason: 'unknown_item', inventory_id: UNKNOWN },
        hinted: true
      })
    })

    test('a deduction that a trigger alters fails and changes nothing', async () => {
      const item = await shop.item('10.00')
      await shop.db.query(`
        CREATE FUNCTION private.meddle() RETURNS trigger LANGUAGE plpgsql AS
          'BEGIN NEW.quantity := OLD.quantity; RETURN NEW; END';
        CREATE TRIGGER meddle BEFORE UPDATE ON inventory
          FOR EACH ROW WHEN (NEW.id = '${item}') EXECUTE FUNCTION private.meddle()`)
      const { details, ...answer } = refusal(await shop.sell(item, 4))
      assert.deepEqual(answer, {
        ...expected.altered,
        message: 'Inventory verification failed',
        data: null,
        hinted: true
      })
      assert.equal(details.reason, 'verification_failed')
      assert.equal(details.inventory_id, item)
      assert.equal(await shop.stock(item), '10.00')
    })

    for (const [what, { id, quantity = 1, ...error }] of Object.entries(badCalls)) {
      test(what, async () => {
        const item = await shop.item('11.52')
        assert.deepEqual(refusal(await shop.sell(id === undefined ? item : id, quantity)), {
          ...error,
          status: 400,
          statusText: 'Bad Request',
          data: null,
          hinted: true
        })
        assert.equal(await shop.stock(item), '11.52')
      })
    }

    test('line breaks in an argument stay out of the status line and the headers', async () => {
      const item = await shop.item('11.52')
      for (const [id, quantity] of [[item, '1\r\nX-Injected: yes'], [`${item}\r\nX-Injected: yes`, '1']]) {
        const body = JSON.stringify({ p_inventory_id: id, p_quantity: quantity })
        const answer = await shop.post('decrement_inventory', body)
        assert.equal(answer.status, 400)
        assert.equal(answer.statusText, 'Bad Request')
        assert.equal(answer.headers.get('x-injected'), null)
        assert.equal((await answer.json()).code, '22P02')
      }
      assert.equal(await shop.stock(item), '11.52')
    })

    test('an argument left out is not a call', async () => {
      const item = await shop.item('11.52')
      const { status, error } = await shop.rpc('decrement_inventory', { p_inventory_id: item })
      assert.equal(status, 404)
      assert.equal(error.code, 'PGRST202')
      assert.equal(await shop.stock(item), '11.52')
    })

    // Last, as it leaves the shop without a stock table.
    test('no stock table attached', async () => {
      const item = await shop.item('11.52')
      await shop.db.query('SELECT detach_inventory()')
      assert.deepEqual(refusal(await shop.sell(item, 1)), {
        status: 500,
        statusText: 'Internal Server Error',
        data: null,
        code: '55000',
        message: 'no stock table is attached',
        details: { reason: 'not_attached' },
        hinted: true
      })
      assert.equal(await shop.stock(item), '11.52')
    })
  })
}

// PostgREST hands a role's settings on only if it knows their names when it loads its configuration, so the library
// must be loaded into its sessions from the start.
describe('an error style for one role', () => {
  let shop
  before(async () => {
    shop = await openShop({
      callers: ['browser'],
      prepare: (db, roles) =>
        db.query(`
          ALTER ROLE ${roles.authenticator} SET session_preload_libraries = 'inventory_ext';
          ALTER ROLE ${roles.browser} SET inventory_ext.error_style = 'postgrest';
          GRANT EXECUTE ON FUNCTION decrement_inventory TO ${roles.browser}`)
    })
  })
  after(() => shop?.close())

  test('two roles get their own styles from the same PostgREST', async () => {
    const item = await shop.item('3.00')
    const browser = { role: shop.roles.browser }
    const answers = await Promise.all(
      [browser, undefined, browser, undefined].map((caller) => shop.sell(item, 5, caller))
    )
    assert.deepEqual(
      answers.map(({ status, error }) => [status, error.code]),
      [[409, 'PT409'], [400, 'IV001'], [409, 'PT409'], [400, 'IV001']]
    )
  })
})
