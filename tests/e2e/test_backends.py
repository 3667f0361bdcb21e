"""Python backends publish with the clients that they have anyway; sockets on two nodes hear it."""

import asyncio
import base64
import json

import nats
import redis
import websockets
from conftest import PATIENCE, token

COUNT = 1000


async def hear(sockets, count):
    """What each socket hears, until each has heard so many messages."""

    async def one(socket):
        return [await asyncio.wait_for(socket.recv(), PATIENCE) for _ in range(count)]

    return await asyncio.gather(*(one(socket) for socket in sockets))


async def connect(node, path, **options):
    return await websockets.connect(f"ws://{node.address}{path}", open_timeout=PATIENCE, **options)


def test_redis_pipelines_arrive_in_order_on_every_node(redis_url, broker):
    nodes = [broker("--bus", redis_url) for _ in range(2)]
    client = redis.from_url(redis_url)

    async def run():
        sockets = [await connect(node, path) for node in nodes for path in ("/load", "/load/**")]
        pipeline = client.pipeline(transaction=False)
        for number in range(COUNT):
            pipeline.publish("clarion:load", f"message {number}")
        counts = await asyncio.to_thread(pipeline.execute)
        assert set(counts) == {2}, "each node has one subscription, whoever shares it"
        for heard in await hear(sockets, COUNT):
            assert heard == [f"message {number}" for number in range(COUNT)]
        for socket in sockets:
            await socket.close()

    asyncio.run(run())


def test_nats_messages_arrive_in_order_on_every_node(nats_url, broker):
    nodes = [broker("--bus", nats_url) for _ in range(2)]

    async def run():
        client = await nats.connect(nats_url)
        sockets = [await connect(node, path) for node in nodes for path in ("/load", "/load/**")]
        for number in range(COUNT):
            await client.publish("clarion.load", f"message {number}".encode())
        await client.flush()
        for heard in await hear(sockets, COUNT):
            assert heard == [f"message {number}" for number in range(COUNT)]
        await client.drain()
        for socket in sockets:
            await socket.close()

    asyncio.run(run())


def test_bytes_stay_bytes_and_text_stays_text(redis_url, broker):
    node = broker("--bus", redis_url)
    client = redis.from_url(redis_url)
    payloads = ["größe 🦀", "", b"\xff\x00\x01", b"\x00 no envelope", "x" * 65_536]

    async def run():
        async with await connect(node, "/a%20b/%C3%B6") as socket:
            for payload in payloads:
                client.publish("clarion:a b/ö", payload)
            (heard,) = await hear([socket], len(payloads))
        # A payload that is UTF-8 comes as text, whatever its publisher thought of it.
        assert heard == [text if isinstance(text, str) else as_sent(text) for text in payloads]

    asyncio.run(run())


def as_sent(payload):
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload


def test_a_signed_in_user_by_subprotocol(nats_url, broker):
    secret = "a secret of this test, and long enough"
    node = broker("--bus", nats_url, CLARION_JWT_SECRET=secret, CLARION_API_KEYS="key-1,key-2")

    async def run():
        bearer = f"bearer.{token(secret, sub=42)}"
        async with await connect(node, "/me", subprotocols=["clarion.v1", bearer]) as socket:
            assert socket.subprotocol == "clarion.v1"
            assert node.post("/users/42", b"hello")[0] == 401
            assert node.post("/users/42", b"hello", X_API_Key="key-3")[0] == 401
            assert node.post("/users/42", b"hello", X_API_Key="key-2")[0] == 200
            call = {"jsonrpc": "2.0", "id": 1, "method": "broadcast", "params": {"data": {"at": "noon"}}}
            status, answer = node.post("/rpc", call, "application/json", X_API_Key="key-1")
            assert (status, answer["id"], "error" in answer) == (200, 1, False)
            (heard,) = await hear([socket], 2)
            assert heard[0] == "hello" and json.loads(heard[1]) == {"at": "noon"}
        for offered in ([], ["clarion.v1", f"bearer.{token('another secret', sub=42)}"]):
            try:
                await connect(node, "/users/42", subprotocols=offered or None)
                raise AssertionError("it must be refused before the upgrade")
            except websockets.InvalidStatus as refused:
                assert refused.response.status_code == 401

    asyncio.run(run())


def test_a_batch_has_an_answer_for_each(broker):
    node = broker()
    batch = [
        {"channel": "a", "text": "one"},
        {"channel": "a//b", "text": "no channel"},
        {"channel": "a", "base64": base64.b64encode(b"\xfe").decode()},
    ]

    async def run():
        async with await connect(node, "/a") as socket:
            status, answer = node.post("/api/batch", batch, "application/json")
            assert status == 200
            assert [list(result) for result in answer["results"]] == [["id"], ["error"], ["id"]]
            assert await hear([socket], 2) == [["one", b"\xfe"]]

    asyncio.run(run())
