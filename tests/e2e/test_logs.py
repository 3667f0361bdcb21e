"""What was logged while nobody listened, by plain backends and by the command line."""

import redis
from conftest import PATIENCE, ROOT, eventually, run_to_end

CLARION = ROOT / "target/debug/clarion"
LOGGED = "[[namespaces]]\nprefix = 'orders'\nsubscribe = 'anyone'\npublish = 'anyone'\nlog = {}\n"


def tail(node, *args):
    code, said = run_to_end([CLARION, "tail", "orders/7", "--via", node.url, *args], timeout=PATIENCE)
    assert code == 0, said
    return [line for line in said.splitlines() if line.isdigit()]


def test_tail_goes_on_where_it_was(redis_url, broker, tmp_path):
    configuration, cursor = tmp_path / "clarion.toml", tmp_path / "cursor"
    configuration.write_text(LOGGED)
    node = broker("--bus", redis_url, "--config", str(configuration))
    backend = redis.from_url(redis_url)
    # Nobody knows of a PUBLISH before the node hears its namespace.
    eventually("the node hears plain publications", lambda: backend.pubsub_numpat() >= 1)
    for number in range(5):
        backend.publish("clarion:orders/7", number)
    assert tail(node, "--last", "3", "--count", "3") == ["2", "3", "4"]
    assert tail(node, "--last", "5", "--count", "2", "--resume", str(cursor)) == ["0", "1"]
    assert cursor.read_text().strip()
    backend.publish("clarion:orders/7", 5)
    assert tail(node, "--count", "4", "--resume", str(cursor)) == ["2", "3", "4", "5"]
    code, said = run_to_end([CLARION, "tail", "orders/7", "--via", node.url, "--last", "3", "--door", "ws"], timeout=PATIENCE)
    assert code == 64 and "--door sse" in said
