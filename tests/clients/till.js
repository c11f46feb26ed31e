// What the JavaScript clients share; see till.py for the task of each client and for the line that it prints.
import Decimal from 'decimal.js'

const WORKERS = 8
const ATTEMPTS = 64

export const [item, quantity] = process.argv.slice(2)

// There is not enough; `facts` is the DETAIL of the error.
export class SoldOut extends Error {
  constructor(facts) {
    super('sold out')
    this.facts = facts
  }
}

export async function sellInTasks(sell) {
  const sold = []
  const refused = []
  let number = 0
  async function work() {
    while (number < ATTEMPTS) {
      const order = `order ${number++}`
      const attempt = [item, quantity, order, `key of ${order}`]
      try {
        await sell(...attempt) // this result is thrown away
        sold.push(await sell(...attempt))
      } catch (error) {
        if (!(error instanceof SoldOut)) throw error
        refused.push(error.facts.available)
      }
    }
  }
  await Promise.all(Array.from({ length: WORKERS }, work))
  const left = new Set(sold.map((result) => result.new_quantity.toFixed()))
  const first = Decimal.max(...sold.map((result) => result.new_quantity))
  const replayed = sold.filter((result) => result.replayed).length
  const counts = { sold: left.size, refused: refused.length, replayed }
  console.log(JSON.stringify({ ...counts, first: first.toFixed(), available: refused.at(-1).toFixed() }))
}
