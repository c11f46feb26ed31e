// A schema for each tenant, all alike and with the same ids: a real PostgREST, the real client.
// Three ways to say which stock a request means: functions in each schema, which the profile selects; the search_path
// of the tenant's role; a claim of the token, which a pre-request function reads. Promises shown here, for each way:
// many requests of two tenants at once keep the books of both exact; a key of one tenant is nothing to the other; a
// tenant that asks for the other's stock is refused, and nothing changes; a tenant may come later.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { openShop, refusal, until } from './shop.js'

const TENANTS = ['anna', 'bert']
const STOCK = { anna: 60, bert: 80 } // of item 1
const REQUESTS = 100 // of each tenant, for one unit

const SCHEMA = (tenant, role) => `
  CREATE SCHEMA ${tenant};
  CREATE TABLE ${tenant}.inventory (id bigint PRIMARY KEY, quantity numeric(12,2) NOT NULL);
  INSERT INTO ${tenant}.inventory VALUES (1, ${STOCK[tenant] ?? 10}), (2, 50);
  SELECT attach_inventory('${tenant}.inventory');
  GRANT USAGE ON SCHEMA ${tenant} TO ${role};
  GRANT EXECUTE ON FUNCTION decrement_item, decrement_inventory_batch TO ${role}`

// SECURITY INVOKER: EXECUTE on the functions of the extension and USAGE on the schema still decide.
const WRAPPERS = (tenant) => `
  CREATE FUNCTION ${tenant}.decrement_item(p_item public.inventory_key, p_quantity numeric,
      p_reference text DEFAULT NULL, p_idempotency_key text DEFAULT NULL) RETURNS json LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET inventory_ext.stock_table = '${tenant}.inventory'
    AS 'SELECT public.decrement_item(p_item, p_quantity, p_reference, p_idempotency_key)';
  CREATE FUNCTION ${tenant}.decrement_inventory_batch(p_items jsonb, p_reference text DEFAULT NULL,
      p_idempotency_key text DEFAULT NULL, p_on_shortage text DEFAULT 'abort') RETURNS json LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET inventory_ext.stock_table = '${tenant}.inventory'
    AS 'SELECT public.decrement_inventory_batch(p_items, p_reference, p_idempotency_key, p_on_shortage)'`

// A token without the claim names no table, rather than the only one that may be attached.
const CHOOSE_TENANT = `
  CREATE FUNCTION private.choose_tenant() RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT set_config('inventory_ext.stock_table',
      coalesce(quote_ident(current_setting('request.jwt.claims')::json ->> 'tenant') || '.inventory', 'none'), true)
  $$`

const FORBIDDEN = { status: 403, code: '42501', message: 'permission denied for schema bert' }

// How to tell PostgREST of another tenant.
const EXPOSE = (db, roles) =>
  db.query(`
    ALTER ROLE ${roles.authenticator} SET pgrst.db_schemas = 'anna,bert,carl';
    NOTIFY pgrst, 'reload config';
    NOTIFY pgrst, 'reload schema'`)

// `role`, `profile` and `claims` of a tenant's requests. make() prepares the schema or the role, and announce() lets a
// PostgREST that runs know of it. `asOther` is the answer to tenant anna who asks for what is bert's.
const ways = {
  'functions in each schema': {
    settings: { PGRST_DB_SCHEMAS: 'anna,bert' },
    role: (tenant) => tenant,
    announce: EXPOSE,
    make: (db, roles, tenant) => db.query(WRAPPERS(tenant)),
    profile: (tenant) => tenant,
    claims: () => ({}),
    asOther: FORBIDDEN
  },
  'functions in each schema, one role for all': {
    settings: { PGRST_DB_SCHEMAS: 'anna,bert' },
    role: () => 'cashier',
    announce: EXPOSE,
    make: (db, roles, tenant) => db.query(WRAPPERS(tenant)),
    profile: (tenant) => tenant,
    claims: () => ({})
  },
  'search_path of the role': {
    settings: { PGRST_DB_SCHEMAS: 'public' },
    role: (tenant) => tenant,
    announce: (db) => db.query("NOTIFY pgrst, 'reload config'"),
    make: (db, roles, tenant) => db.query(`ALTER ROLE ${roles[tenant]} SET search_path = ${tenant}, public`),
    profile: () => undefined,
    claims: () => ({})
  },
  'claim of the token': {
    settings: { PGRST_DB_SCHEMAS: 'public', PGRST_DB_PRE_REQUEST: 'private.choose_tenant' },
    role: (tenant) => tenant,
    make: (db, roles, tenant) => tenant === 'anna' && db.query(CHOOSE_TENANT),
    profile: () => undefined,
    claims: (tenant) => ({ tenant }),
    asOther: FORBIDDEN
  },
  'claim of the token, one role for all': {
    settings: { PGRST_DB_SCHEMAS: 'public', PGRST_DB_PRE_REQUEST: 'private.choose_tenant' },
    role: () => 'cashier',
    make: (db, roles, tenant) => tenant === 'anna' && db.query(CHOOSE_TENANT),
    profile: () => undefined,
    claims: (tenant) => ({ tenant })
  }
}

function openTenants(way) {
  return openShop({
    callers: [...TENANTS, 'carl'],
    settings: way.settings,
    prepare: async (db, roles) => {
      await db.query(`
        SELECT detach_inventory();
        DROP TABLE inventory;
        ALTER ROLE ${roles.authenticator} SET inventory_ext.request_headers = on`)
      for (const tenant of TENANTS) await addTenant(way, db, roles, tenant)
    }
  })
}

async function addTenant(way, db, roles, tenant) {
  await db.query(SCHEMA(tenant, roles[way.role(tenant)]))
  await way.make(db, roles, tenant)
}

for (const [name, way] of Object.entries(ways)) {
  describe(name, () => {
    let shop
    before(async () => (shop = await openTenants(way)))
    after(() => shop?.close())

    // `as` is the tenant whose stock is asked for, if it is another than the one who asks.
    function call(tenant, fn, args, { as = tenant, key } = {}) {
      const caller = { role: shop.roles[way.role(tenant)], claims: way.claims(as), key }
      return shop.rpc(fn, args, caller, way.profile(as))
    }
    const sell = (tenant, p_item, p_quantity, options) =>
      call(tenant, 'decrement_item', { p_item, p_quantity }, options)

    // What is left of an item, its sales, and whether stock and ledger agree.
    async function books(tenant, item) {
      const { rows } = await shop.db.query(
        `SELECT quantity::text AS left, quantity = sum(delta) AS agree,
                count(*) FILTER (WHERE kind = 'sale')::int AS sales
           FROM ${tenant}.inventory JOIN ${tenant}.inventory_movement ON inventory_id = id
          WHERE id = $1 GROUP BY quantity`,
        [item]
      )
      return rows[0]
    }

    test('a hundred requests of each tenant at once, and the books of both are exact', async () => {
      const calls = Array.from({ length: REQUESTS }, () => TENANTS.map((tenant) => sell(tenant, 1, 1))).flat()
      const answers = await Promise.all(calls)
      for (const [n, tenant] of TENANTS.entries()) {
        const mine = answers.filter((_, index) => index % TENANTS.length === n)
        const sold = mine.filter(({ status }) => status === 200)
        const left = sold.map(({ data }) => data.new_quantity).sort((a, b) => a - b)
        assert.deepEqual(left, Array.from({ length: STOCK[tenant] }, (_, quantity) => quantity))
        const refused = mine.filter(({ status }) => status !== 200)
        assert.deepEqual(refused.map(({ error }) => error.code), Array(REQUESTS - STOCK[tenant]).fill('IV001'))
        assert.deepEqual(await books(tenant, 1), { left: '0.00', agree: true, sales: STOCK[tenant] })
      }
    })

    test('the same key of two tenants is two sales', async () => {
      const key = randomUUID()
      for (const replayed of [undefined, true]) {
        for (const tenant of TENANTS) {
          const { status, data, text } = await sell(tenant, 2, 3, { key })
          assert.deepEqual([status, data?.new_quantity, data?.replayed], [200, 47, replayed], text)
        }
      }
      for (const tenant of TENANTS) assert.deepEqual(await books(tenant, 2), { left: '47.00', agree: true, sales: 1 })
    })

    test('an order is taken from the stock of its tenant', async () => {
      const p_items = [{ inventory_id: '2', quantity: 7 }]
      const { status, text } = await call('bert', 'decrement_inventory_batch', { p_items })
      assert.equal(status, 200, text)
      assert.deepEqual([(await books('anna', 2)).left, (await books('bert', 2)).left], ['47.00', '40.00'])
    })

    if (way.asOther) {
      test("a tenant that asks for the other's stock is refused", async () => {
        const before = await Promise.all(TENANTS.map((tenant) => books(tenant, 2)))
        const { status, data, code, message } = refusal(await sell('anna', 2, 1, { as: 'bert' }))
        assert.deepEqual({ status, data, code, message }, { data: null, ...way.asOther })
        assert.deepEqual(await Promise.all(TENANTS.map((tenant) => books(tenant, 2))), before)
      })
    }

    test('a tenant that comes later sells its own stock', async () => {
      await addTenant(way, shop.db, shop.roles, 'carl')
      await way.announce?.(shop.db, shop.roles)
      await until('PostgREST to know the tenant', async () => (await sell('carl', 1, 1)).status === 200)
      assert.deepEqual(await books('carl', 1), { left: '9.00', agree: true, sales: 1 })
      for (const tenant of TENANTS) assert.equal((await books(tenant, 1)).left, '0.00')
    })
  })
}

describe('profiles', () => {
  let shop
  before(async () => (shop = await openTenants(ways['functions in each schema'])))
  after(() => shop?.close())
  const sell = (profile) =>
    shop.rpc('decrement_item', { p_item: 2, p_quantity: 1 }, { role: shop.roles.anna }, profile)
  const left = async (tenant) =>
    (await shop.db.query(`SELECT quantity::text FROM ${tenant}.inventory WHERE id = 2`)).rows[0].quantity

  test('that are not exposed are refused', async () => {
    for (const profile of ['carl', 'public', 'private']) {
      const { status, error } = await sell(profile)
      assert.deepEqual([status, error.code], [406, 'PGRST106'])
    }
    assert.equal(await left('anna'), '50.00')
  })

  test('have the functions of their own schema only, and none is ambiguous', async () => {
    const paths = async (profile, role) => {
      const headers = { Accept: 'application/openapi+json', 'Accept-Profile': profile }
      const answer = await shop.request('/', { headers }, { role: shop.roles[role] })
      return Object.keys((await answer.json()).paths).filter((path) => path.startsWith('/rpc/')).sort()
    }
    const functions = ['/rpc/decrement_inventory_batch', '/rpc/decrement_item']
    assert.deepEqual(await paths('anna', 'anna'), functions)
    assert.equal((await sell('anna')).status, 200)
    const absent = await shop.rpc('restock_inventory', {}, { role: shop.roles.anna }, 'anna')
    assert.deepEqual([absent.status, absent.error.code], [404, 'PGRST202'])
  })

  test("do not open the other's tables", async () => {
    for (const table of ['inventory', 'inventory_movement', 'inventory_request']) {
      const headers = { 'Accept-Profile': 'bert' }
      const answer = await shop.request(`/${table}`, { headers }, { role: shop.roles.anna })
      assert.deepEqual([answer.status, (await answer.json()).message], [403, FORBIDDEN.message])
    }
  })
})

describe('the search_path of the role', () => {
  let shop
  before(async () => (shop = await openTenants(ways['search_path of the role'])))
  after(() => shop?.close())

  test('cannot be changed by a request', async () => {
    for (const profile of ['anna', 'bert']) {
      const args = { p_item: 2, p_quantity: 1 }
      const { status, error } = await shop.rpc('decrement_item', args, { role: shop.roles.anna }, profile)
      assert.deepEqual([status, error.code], [406, 'PGRST106'])
    }
    const { rows } = await shop.db.query('SELECT quantity::text FROM bert.inventory WHERE id = 2')
    assert.equal(rows[0].quantity, '50.00')
  })
})

describe('the claim of the token', () => {
  let shop
  before(async () => (shop = await openTenants(ways['claim of the token, one role for all'])))
  after(() => shop?.close())
  const sell = (claims) =>
    shop.rpc('decrement_item', { p_item: 2, p_quantity: 1 }, { role: shop.roles.cashier, claims })

  const others = [{}, ...[null, '', 'carl', 'Anna', 'anna.inventory', '"anna"'].map((tenant) => ({ tenant }))]
  for (const claims of others) {
    test(`${JSON.stringify(claims)} sells nothing, also where one table only is attached`, async () => {
      const answers = [await sell(claims)]
      await shop.db.query("SELECT detach_inventory('bert.inventory')")
      answers.push(await sell(claims))
      await shop.db.query("SELECT attach_inventory('bert.inventory')")
      for (const { status, error } of answers) {
        assert.deepEqual([status, error?.code], [500, '55000'])
        assert.equal(JSON.parse(error.details).reason, 'no_such_stock_table')
      }
    })
  }
})
