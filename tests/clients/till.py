"""What the Python clients of this folder share: it hands out the attempts, repeats each sale and counts the results.

Each client gets an item and a quantity, and sells this quantity to 64 attempts from eight workers at once. Each sale
has a key; its first result is thrown away, and the request is sent again with the same key. A client prints one line of
JSON: the number of sales, refusals and replayed results, the largest quantity that a sale left, and the quantity that
the last refusal reported as available. The two quantities are text with every digit. BEHIND_PGBOUNCER is set in the
environment where a pooler in transaction mode is in between.
"""

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

WORKERS, ATTEMPTS = 8, 64
BEHIND_PGBOUNCER = bool(os.environ.get("BEHIND_PGBOUNCER"))
ITEM, QUANTITY = sys.argv[1], Decimal(sys.argv[2])


class SoldOut(Exception):
    """There is not enough; the argument is the DETAIL of the error."""


class Till:
    def __init__(self, sell):
        self.sell = sell
        self.numbers = iter(range(ATTEMPTS))  # next() of it is atomic
        self.sold, self.refused = [], []

    def attempts(self, item):
        for number in self.numbers:
            yield item, QUANTITY, f"order {number}", f"key of order {number}"

    def work(self, item):
        for attempt in self.attempts(item):
            try:
                self.sell(*attempt)
                self.sold.append(self.sell(*attempt))
            except SoldOut as refusal:
                self.refused.append(refusal.args[0])

    async def work_async(self, item):
        for attempt in self.attempts(item):
            try:
                await self.sell(*attempt)
                self.sold.append(await self.sell(*attempt))
            except SoldOut as refusal:
                self.refused.append(refusal.args[0])

    def report(self):
        left = {result["new_quantity"] for result in self.sold}
        replayed = sum(result.get("replayed", False) for result in self.sold)
        counts = {"sold": len(left), "refused": len(self.refused), "replayed": replayed}
        print(json.dumps(counts | {"first": f"{max(left):f}", "available": f"{self.refused[-1]['available']:f}"}))


def sell_in_threads(sell, item):
    till = Till(sell)
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(till.work, [item] * WORKERS))
    till.report()


async def sell_in_tasks(sell, item):
    till = Till(sell)
    await asyncio.gather(*(till.work_async(item) for _ in range(WORKERS)))
    till.report()
