"""Hears orders and publishes `{count, amount}` per day and region on `reports/orders/<day>/<region>`.

Whoever comes late asks `GET /state`. All that is published and the state carry a version, the number of the last order in
it, so that a page can subscribe first, then ask for the state, and drop what is older than that.
"""

import os
import threading
import time
from collections import deque
from http.server import ThreadingHTTPServer

import bus
import feed
from web import Handler

BAR = 10  # seconds of a bar of the chart
BARS = 30


class Reports:
    def __init__(self):
        self.version = 0
        self.sums = {}
        self.bars = {}
        self.latest = deque(maxlen=12)
        self.lock = threading.Lock()

    def add(self, orders):
        """Adds orders and returns what is to be published: the sums that changed, and the last of the orders."""
        changed = {}
        with self.lock:
            for order in orders:
                day = time.strftime("%Y-%m-%d", time.gmtime(order["time"]))
                key = (day, order["region"])
                report = self.sums.setdefault(key, {"kind": "report", "day": day, "region": order["region"], "count": 0, "amount": 0})
                report["count"] += 1
                report["amount"] += order["amount"]
                report["version"] = self.version = order["seq"]
                bar = (int(order["time"] // BAR) * BAR, order["region"])
                self.bars[bar] = self.bars.get(bar, 0) + order["amount"]
                # The page is on the wall for all to see: who bought is nobody's business there.
                public = {name: order[name] for name in ("id", "amount", "region", "time")}
                self.latest.append({"kind": "order", "version": order["seq"], **public})
                changed[key] = report
            oldest = time.time() - BAR * (BARS + 1)
            self.bars = {bar: amount for bar, amount in self.bars.items() if bar[0] >= oldest}
            orders = [order for order in self.latest if order["version"] > self.version - len(orders)]
            return [dict(report) for report in changed.values()], orders

    def state(self):
        with self.lock:
            days = sorted({day for day, _ in self.sums})[-7:]
            return {
                "version": self.version,
                "now": time.time(),
                "bar": BAR,
                "bars": [{"time": at, "region": region, "amount": amount} for (at, region), amount in self.bars.items()],
                "reports": [dict(report) for (day, _), report in self.sums.items() if day in days],
                "orders": list(self.latest),
            }


def run(reports, connection):
    """Publishes what changes. What the bus does not take is no loss: a page sees by the tick that it missed something."""
    ticked = 0
    for orders in feed.batches(connection, after=0):
        sums, latest = reports.add(orders)
        messages = [(f"reports/orders/{report['day']}/{report['region']}", report) for report in sums]
        messages += [("reports/orders/latest", order) for order in latest]
        if time.monotonic() - ticked >= 2:
            messages.append(("reports/orders/tick", {"kind": "tick", "version": reports.version}))
            ticked = time.monotonic()
        try:
            for channel, message in messages:
                connection.publish(channel, message)
        except Exception as error:
            print(f"not published: {error}", flush=True)


class State(Handler):
    def do_GET(self):
        if self.path == "/state":
            self.answer(200, reports.state())
        else:
            self.answer(200 if self.path == "/health" else 404, {})


if __name__ == "__main__":
    reports = Reports()
    threading.Thread(target=run, args=(reports, bus.connect()), daemon=True).start()
    ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["REPORTS_PORT"])), State).serve_forever()
