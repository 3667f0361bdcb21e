"""Each publishing snippet of the book, run as it is printed: a subscriber must hear what it says."""

import asyncio
import json

import pytest
import websockets
from conftest import PATIENCE
from languages import run

KEY = "a key of this test"
PAYLOAD = {"id": 7, "amount": "12.50"}

OVER_REDIS = [
    "python/redis_publish.py",
    "node/redis.mjs",
    "go/redis.go",
    "php/redis.php",
    "ruby/redis.rb",
    "java/RedisPublish.java",
    "shell/redis.sh",
]
OVER_NATS = [
    "python/nats_publish.py",
    "node/nats.mjs",
    "go/nats.go",
    "php/nats.php",
    "ruby/nats.rb",
    "java/NatsPublish.java",
    "shell/nats.sh",
    "shell/nats_plain.sh",
]
OVER_HTTP = [
    "python/http_publish.py",
    "node/http.mjs",
    "go/http.go",
    "php/http.php",
    "ruby/http.rb",
    "java/HttpPublish.java",
    "shell/http.sh",
]


async def hears(node, snippet, times, **variables):
    """Runs a snippet while somebody listens, and judges what came."""
    address = f"ws://{node.address}/orders/eu"
    async with websockets.connect(address, open_timeout=PATIENCE) as socket:
        code, said = await asyncio.to_thread(run, snippet, **variables)
        assert code == 0, said
        for _ in range(times):
            assert json.loads(await asyncio.wait_for(socket.recv(), PATIENCE)) == PAYLOAD


@pytest.mark.parametrize("snippet", OVER_REDIS)
def test_over_redis(snippet, redis_url, broker):
    node = broker("--bus", redis_url)
    asyncio.run(hears(node, snippet, 1, REDIS_URL=redis_url))


@pytest.mark.parametrize("snippet", OVER_NATS)
def test_over_nats(snippet, nats_url, broker):
    node = broker("--bus", nats_url)
    asyncio.run(hears(node, snippet, 1, NATS_URL=nats_url))


@pytest.mark.parametrize("snippet", OVER_HTTP)
def test_over_http(snippet, broker):
    node = broker(CLARION_API_KEYS=KEY)
    asyncio.run(hears(node, snippet, 1, CLARION_URL=node.url, CLARION_API_KEY=KEY))


@pytest.mark.parametrize("snippet", OVER_HTTP)
def test_a_refusal_is_an_error_in_every_language(snippet, broker):
    node = broker(CLARION_API_KEYS=KEY)
    code, said = run(snippet, CLARION_URL=node.url, CLARION_API_KEY="another key")
    assert code != 0, said
    assert "401" in said, said


def test_the_cli_over_all_three(redis_url, nats_url, broker):
    on_redis, on_nats = broker("--bus", redis_url), broker("--bus", nats_url, CLARION_API_KEYS=KEY)
    ways = {"REDIS_URL": redis_url, "NATS_URL": nats_url, "CLARION_URL": on_nats.url, "CLARION_API_KEY": KEY}

    async def both():
        address = f"ws://{on_redis.address}/orders/eu"
        async with websockets.connect(address, open_timeout=PATIENCE) as socket:
            await hears(on_nats, "shell/clarion.sh", 2, **ways)
            assert json.loads(await asyncio.wait_for(socket.recv(), PATIENCE)) == PAYLOAD

    asyncio.run(both())
