"""Publish three payments of one account. Run: python examples/publisher.py localhost:9092"""

import sys
import time

from streams import Publisher

now = int(time.time() * 1_000)
with Publisher(*sys.argv[1:2]) as out:
    for number, cents in enumerate((1_250, 990, 250_000)):
        payment = {"transaction_id": f"demo-{now % 10**9}-{number}", "account_id": "acct-demo",
                   "event_time": now + number, "amount": cents, "currency": "EUR",
                   "channel": "ecommerce", "merchant_id": "shop-1"}  # fmt: skip
        out.send(payment)
print("3 payments published")
