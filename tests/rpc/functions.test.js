// The functions of the extension as PostgREST sees them.
// Promises shown here: no call is ambiguous (that would be HTTP 300), whichever optional arguments it names; the
// OpenAPI document lists each function that the caller may use, with its arguments and their types. What is expected is
// read from the catalog of the server.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { openShop } from './shop.js'

// The functions with named arguments: the others are those of triggers and of the type inventory_key.
const FUNCTIONS = `
  SELECT proname AS name, proargnames[1:pronargs] AS arguments, pronargdefaults AS optional,
         ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) WITH ORDINALITY AS a(t, n) ORDER BY n) AS types
    FROM pg_proc AS f
    JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e'
   WHERE proargnames IS NOT NULL ORDER BY proname`

const AMBIGUOUS = 'PGRST203'
const NOT_FOUND = 'PGRST202'

function subsets(names) {
  return names.reduce((found, name) => [...found, ...found.map((subset) => [...subset, name])], [[]])
}

describe('functions over RPC', () => {
  let shop
  let functions
  before(async () => {
    shop = await openShop({
      callers: ['manager', 'clerk'],
      prepare: async (db, roles) => {
        functions = (await db.query(FUNCTIONS)).rows
        for (const { name } of functions) await db.query(`GRANT EXECUTE ON FUNCTION ${name} TO ${roles.manager}`)
        await db.query(`GRANT EXECUTE ON FUNCTION decrement_item TO ${roles.clerk}`)
        await db.query(`
          CREATE FUNCTION twice(p_item text) RETURNS text LANGUAGE sql AS 'SELECT p_item';
          CREATE FUNCTION twice(p_item uuid) RETURNS uuid LANGUAGE sql AS 'SELECT p_item'`)
      }
    })
  })
  after(() => shop?.close())

  async function openApi(role) {
    const answer = await shop.request('/', { headers: { Accept: 'application/openapi+json' } }, { role })
    assert.equal(answer.status, 200)
    assert.match(answer.headers.get('content-type'), /^application\/openapi\+json/)
    return (await answer.json()).paths
  }

  test('no call with named arguments is ambiguous or unknown', async () => {
    for (const { name, arguments: names, optional } of functions) {
      const needed = names.slice(0, names.length - optional)
      for (const chosen of subsets(names.slice(needed.length))) {
        // NULL reaches the function: PostgREST chooses it by the names alone
        const args = Object.fromEntries([...needed, ...chosen].map((argument) => [argument, null]))
        const { status, text } = await shop.rpc(name, args, { role: shop.roles.manager })
        assert.notEqual(status, 300, text)
        assert.ok(!text.includes(NOT_FOUND) && !text.includes(AMBIGUOUS), `${name} ${Object.keys(args)}: ${text}`)
      }
    }
    assert.ok(functions.length >= 12)
  })

  test('an overloaded function of your own is ambiguous, and an argument too many unknown', async () => {
    const twice = await shop.rpc('twice', { p_item: '1' }, { role: shop.roles.manager })
    assert.deepEqual([twice.status, twice.error.code], [300, AMBIGUOUS])
    const unknown = await shop.rpc('decrement_item', { p_item: 1, p_quantity: 1, p_note: '' })
    assert.deepEqual([unknown.status, unknown.error.code], [404, NOT_FOUND])
  })

  test('the OpenAPI document has each function with its arguments and types', async () => {
    const paths = await openApi(shop.roles.manager)
    for (const { name, arguments: names, optional, types } of functions) {
      const { post, get } = paths[`/rpc/${name}`]
      const { schema } = post.parameters.find(({ in: place }) => place === 'body')
      const formats = Object.entries(schema.properties ?? {}).map(([argument, { format }]) => [argument, format])
      const expected = names.map((argument, n) => [argument, types[n]])
      assert.deepEqual(Object.fromEntries(formats), Object.fromEntries(expected), name)
      const needed = names.slice(0, names.length - optional)
      assert.deepEqual([...(schema.required ?? [])].sort(), [...needed].sort(), name)
      assert.deepEqual((get.parameters ?? []).map((argument) => [argument.name, argument.format]), expected, name)
      assert.ok(post.summary, name) // the first line of the COMMENT
    }
  })

  test('an item is a string of format inventory_key there', async () => {
    const { post } = (await openApi(shop.roles.clerk))['/rpc/decrement_item']
    assert.deepEqual(post.parameters[0].schema, {
      type: 'object',
      description: post.parameters[0].schema.description,
      required: ['p_item', 'p_quantity'],
      properties: {
        p_item: { format: 'inventory_key', type: 'string' },
        p_quantity: { format: 'numeric', type: 'number' },
        p_reference: { format: 'text', type: 'string' },
        p_idempotency_key: { format: 'text', type: 'string' }
      }
    })
  })

  test('a caller sees the functions that it may call, and no others', async () => {
    const seen = async (role) =>
      Object.keys(await openApi(role)).filter((path) => path.startsWith('/rpc/') && path !== '/rpc/twice').sort()
    assert.deepEqual(await seen(shop.roles.clerk), ['/rpc/decrement_item'])
    assert.deepEqual(await seen(shop.roles.web_anon), [])
    assert.deepEqual(await seen(shop.roles.manager), functions.map(({ name }) => `/rpc/${name}`).sort())
  })
})
