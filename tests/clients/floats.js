// Prints the quantity of a result as JSON.parse makes it by default, and as its text.
import pg from 'pg'

const client = new pg.Client()
await client.connect()
const call = 'SELECT result, result::text AS text FROM decrement_item($1, $2) AS result'
const { result, text } = (await client.query(call, process.argv.slice(2))).rows[0]
console.log(JSON.stringify({ number: String(result.new_quantity), text }))
await client.end()
