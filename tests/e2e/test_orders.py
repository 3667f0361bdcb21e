"""The services of examples/orders, without a bus: what is kept, what is published, and that nothing is left out."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, eventually, free_port

sys.path.insert(0, str(ROOT / "examples/orders"))

import feed  # noqa: E402
import payments  # noqa: E402
import reports  # noqa: E402
import watcher  # noqa: E402

ORDER = {"id": "1", "amount": 1250, "region": "asia", "buyer": "7"}


@pytest.fixture
def orders(tmp_path):
    return payments.Orders(str(tmp_path / "orders.sqlite"))


def outbox(orders):
    return [(row["channel"], json.loads(row["message"])) for row in orders.database.execute("SELECT * FROM outbox")]


def test_a_repeated_call_changes_nothing_and_a_contradiction_is_reported(orders):
    assert [orders.paid(ORDER) for _ in range(3)] == ["paid", "repeated", "repeated"]
    assert orders.paid({**ORDER, "amount": 1}) == "contradiction"
    assert [(row["seq"], row["amount"]) for row in orders.after(0)["orders"]] == [(1, 1250)]
    (channel, order), (alarms, alarm) = outbox(orders)
    assert (channel, order["seq"], alarms) == ("orders/asia", 1, "ops/alarms")
    assert alarm["text"] == "Order 1 was called back twice, with amount 12.50 and 0.01"


def test_what_was_not_published_is_there_after_a_restart(orders, tmp_path):
    orders.paid(ORDER)
    orders.database.close()
    assert [channel for channel, _ in outbox(payments.Orders(str(tmp_path / "orders.sqlite")))] == ["orders/asia"]


@pytest.mark.parametrize(("amount", "cents"), [("0.29", 29), ("12.5", 1250), (3, 300)])
def test_amounts_become_cents_exactly(amount, cents):
    assert payments.parse({"id": "1", "amount": amount})["amount"] == cents


@pytest.mark.parametrize("wrong", [{"amount": "1.001"}, {"amount": "-1"}, {"amount": "NaN"}, {"id": "a/b"}, {"region": "*"}])
def test_what_is_no_order_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        payments.parse({"id": "1", "amount": "1", **wrong})


def test_the_call_back_by_json_and_by_form(start, tmp_path):
    port = free_port()
    env = {"PATH": "/usr/bin:/bin", "BUS_URL": "http://127.0.0.1:1", "PAYMENTS_PORT": str(port), "DATABASE": str(tmp_path / "db")}
    start(sys.executable, ROOT / "examples/orders/payments.py", env=env)
    url = f"http://127.0.0.1:{port}{payments.CALLBACK}"
    post = lambda *what: subprocess.run(["curl", "-s", *what, url], capture_output=True, text=True, check=False).stdout
    as_json = ("-H", "Content-Type: application/json", "-d", '{"id": 8, "amount": 0.29}')
    eventually("the payments answer", lambda: post(*as_json) == "success")
    # The very same order as a form is a repetition; though the bus is away, all of it is taken.
    assert post("-d", "id=8&amount=0.29") == "success"
    assert post("-d", "id=8&amount=0.30") == "contradiction"
    assert "amount must be" in post("-d", "id=9&amount=x")
    assert "JSON object" in post("-H", "Content-Type: application/json", "-d", "[")


class Bus:
    """Says what it is told to say."""

    def __init__(self, *heard):
        self.heard = heard

    def listen(self, _):
        yield from self.heard


def test_the_feed_leaves_nothing_out_and_gives_nothing_twice():
    kept = [{"seq": seq} for seq in range(1, 8)]

    def fetch(after):
        return {"orders": [order for order in kept if order["seq"] > after][:2], "last": len(kept)}

    # Of seven orders the bus brings the first, one that is old by then, and the last.
    heard = [kept[0], kept[0], kept[6]]
    taken = [order["seq"] for batch in feed.batches(Bus(*heard), 0, fetch) for order in batch]
    assert taken == [1, 2, 3, 4, 5, 6, 7]
    assert [batch for batch in feed.batches(Bus(None, {"seq": 8}), None, fetch)] == [[], [{"seq": 8}]]


def test_reports_are_sums_by_day_and_region_and_hide_the_buyer():
    book = reports.Reports()
    sums, latest = book.add([{**ORDER, "seq": seq, "time": 1_800_000_000.0} for seq in (1, 2)])
    assert sums == [{"kind": "report", "day": "2027-01-15", "region": "asia", "count": 2, "amount": 2500, "version": 2}]
    assert [order["version"] for order in latest] == [1, 2]
    assert book.state()["version"] == 2
    assert "buyer" not in json.dumps(book.state())


def test_the_watcher_alarms_once_and_says_when_it_is_over():
    watch = watcher.Watch(30)
    watch.beat("mail", 0)
    assert [bool(watch.look(now)) for now in (0, 29, 30, 31, 90)] == [False, False, True, False, False]
    watch.beat("mail", 91)
    assert watch.look(91) == [("mail", "mail is back", True)]
