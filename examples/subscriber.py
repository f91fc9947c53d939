"""Print alerts as they come. Run: python examples/subscriber.py localhost:9092 [earliest]"""

import sys

from streams import Subscriber

start = sys.argv[2] if len(sys.argv) > 2 else "latest"
with Subscriber("alerts", *sys.argv[1:2], start=start) as alerts:
    for alert in alerts:
        why = "; ".join(reason["text"] for reason in alert["reasons"])
        score = alert["score"]  # null when no model made one
        number = "-" if score is None else f"{score:.3f}"
        print(alert["decision"], alert["account_id"], number, why, flush=True)
