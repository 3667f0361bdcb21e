"""Takes the payment provider's call-backs, keeps the orders in SQLite, and publishes each of them once it is kept.

A call-back that is repeated changes nothing; one that contradicts what is kept is refused and reported.
"""

import json
import os
import re
import sqlite3
import threading
import time
from decimal import Decimal, InvalidOperation
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import bus
from web import Handler

CALLBACK = "/order_center/order/alipay/callback"
FIELDS = ("id", "amount", "region", "buyer")


class Orders:
    """The orders, and the outbox: what is to be published is written in the same transaction, so neither is without the other."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.database.row_factory = sqlite3.Row
        self.database.executescript("""
            PRAGMA journal_mode = WAL;
            CREATE TABLE IF NOT EXISTS orders (seq INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, amount INTEGER NOT NULL,
                region TEXT NOT NULL, buyer TEXT NOT NULL, time REAL NOT NULL);
            CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, channel TEXT NOT NULL, message TEXT NOT NULL);
        """)
        self.lock = threading.Lock()
        self.news = threading.Event()

    def paid(self, order):
        """Keeps an order. Returns `paid`, `repeated` or `contradiction`."""
        with self.lock, self.database:
            self.database.execute("BEGIN IMMEDIATE")
            kept = self.database.execute("SELECT * FROM orders WHERE id = ?", (order["id"],)).fetchone()
            if kept and all(kept[field] == order[field] for field in FIELDS):
                return "repeated"
            if kept:
                differs = [f"{field} {show(kept[field])} and {show(order[field])}" for field in FIELDS[1:] if kept[field] != order[field]]
                text = f"Order {order['id']} was called back twice, with {', '.join(differs)}"
                alarm = {"kind": "alarm", "key": f"order {order['id']}", "text": text, "time": time.time()}
                self.put("ops/alarms", alarm)
                return "contradiction"
            order = {**order, "time": time.time()}
            names, marks = ", ".join(order), ", ".join(f":{name}" for name in order)
            seq = self.database.execute(f"INSERT INTO orders ({names}) VALUES ({marks})", order).lastrowid
            self.put(f"orders/{order['region']}", {"seq": seq, **order})
            return "paid"

    def put(self, channel, message):
        self.database.execute("INSERT INTO outbox (channel, message) VALUES (?, ?)", (channel, json.dumps(message)))
        self.news.set()

    def after(self, seq, most=500):
        with self.lock:
            rows = self.database.execute("SELECT * FROM orders WHERE seq > ? ORDER BY seq LIMIT ?", (seq, most)).fetchall()
            last = self.database.execute("SELECT max(seq) FROM orders").fetchone()[0] or 0
        return {"orders": [dict(row) for row in rows], "last": last}

    def publish(self, connection):
        """Publishes what is in the outbox, oldest first, for ever. What the bus did not take stays and is tried again."""
        while True:
            with self.lock:
                row = self.database.execute("SELECT * FROM outbox ORDER BY seq LIMIT 1").fetchone()
                if not row:
                    self.news.clear()
            if not row:
                self.news.wait()
                continue
            try:
                connection.publish(row["channel"], json.loads(row["message"]))
            except Exception as error:
                print(f"not published yet: {error}", flush=True)
                time.sleep(0.5)
                continue
            with self.lock:
                self.database.execute("DELETE FROM outbox WHERE seq = ?", (row["seq"],))


def show(value):
    return f"{value / 100:.2f}" if isinstance(value, int) else value


def parse(given):
    """An order out of what the provider sent; the amount becomes whole cents. Raises ValueError."""
    order = {"region": "other", "buyer": "guest", **{name: str(given[name]) for name in FIELDS if name in given}}
    for name in ("id", "region", "buyer"):
        # They become segments of channels, so they are kept simple.
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", order.get(name, "")):
            raise ValueError(f"{name} must be 1 to 64 letters, digits, _ or -")
    try:
        cents = Decimal(order.get("amount", "")) * 100
        if not 0 < cents <= 10**12 or cents != int(cents):
            raise ValueError
    except (InvalidOperation, ValueError):
        raise ValueError("amount must be positive, with at most two decimals") from None
    return {**order, "amount": int(cents)}


class Payments(Handler):
    def do_GET(self):
        url = urlsplit(self.path)
        given = dict(parse_qsl(url.query))
        if url.path == CALLBACK:
            self.callback(given)
        elif url.path == "/orders":
            after = given.get("after", "0")
            self.answer(200, orders.after(int(after))) if after.isdecimal() else self.answer(400, "after must be a number")
        else:
            self.answer(200 if url.path == "/health" else 404, {})

    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 65_536))
        if urlsplit(self.path).path != CALLBACK:
            return self.answer(404, "not found")
        try:
            form = self.headers.get_content_type() == "application/x-www-form-urlencoded"
            # Not by way of a float, in which 0.29 * 100 is not 29.
            given = dict(parse_qsl(body.decode())) if form else json.loads(body, parse_float=Decimal)
        except ValueError:
            given = None
        self.callback(given) if isinstance(given, dict) else self.answer(400, "neither a form nor a JSON object")

    def callback(self, given):
        try:
            outcome = orders.paid(parse(given))
        except ValueError as error:
            return self.answer(400, str(error))
        # The provider repeats its call until it reads this very word.
        return self.answer(409, outcome) if outcome == "contradiction" else self.answer(200, "success")


if __name__ == "__main__":
    orders = Orders(os.environ.get("DATABASE", "orders.sqlite"))
    threading.Thread(target=orders.publish, args=(bus.connect(),), daemon=True).start()
    ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PAYMENTS_PORT"])), Payments).serve_forever()
