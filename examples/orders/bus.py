"""The bus as any backend sees it: an ordinary Redis client, an ordinary NATS client, or plain HTTP where there is neither.

BUS_URL says which one it is, BUS_PREFIX what all its subjects begin with.
"""

import asyncio
import json
import os
import queue
import random
import sys
import threading
import time
import urllib.parse
import urllib.request

PREFIX = os.environ.get("BUS_PREFIX", "shop")
PATIENCE = 5  # seconds that the bus may take for an answer


def connect(url=None):
    url = url or os.environ.get("BUS_URL", "http://127.0.0.1:8000")
    return {"redis": Redis, "nats": Nats, "http": Http}[url.partition(":")[0]](url)


class Bus:
    def listen(self, pattern, every=3):
        """What is published on these channels, for ever.

        A bus keeps nothing, so in between comes None: after each (re)connection, and at least once in `every` seconds.
        It means "something may have passed unheard: look for yourself".
        """
        inbox = queue.Queue(10_000)
        threading.Thread(target=self.read, args=(pattern, inbox.put), daemon=True).start()
        look = time.monotonic() + every
        while True:
            try:
                message = inbox.get(timeout=max(0.0, look - time.monotonic()))
            except queue.Empty:
                message = None
            if message is None:
                look = time.monotonic() + every
            yield message

    def read(self, pattern, put):
        attempt = 0
        while True:
            try:
                for message in self.messages(pattern):
                    attempt = 0
                    put(message)
            except Exception as error:  # Whatever it is, a listener comes back.
                print(f"bus: {type(error).__name__}, connecting again", file=sys.stderr)
            # A random pause, so that many listeners do not come back in the same moment.
            time.sleep(random.uniform(0, min(PATIENCE, 0.2 * 2**attempt)))
            attempt = min(attempt + 1, 10)


class Redis(Bus):
    def __init__(self, url):
        import redis

        self.client = redis.Redis.from_url(url, socket_timeout=PATIENCE, health_check_interval=PATIENCE)

    def publish(self, channel, message):
        self.client.publish(f"{PREFIX}:{channel}", json.dumps(message))

    def messages(self, pattern):
        with self.client.pubsub() as subscription:
            subscription.psubscribe(f"{PREFIX}:{pattern}")
            while True:
                event = subscription.get_message(timeout=1)
                if event and event["type"] == "psubscribe":
                    yield None
                elif event and event["type"] == "pmessage":
                    yield json.loads(event["data"])


class Nats(Bus):
    def __init__(self, url):
        import nats

        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.reconnected = []
        self.client = self.wait(nats.connect(url, max_reconnect_attempts=-1, ping_interval=5, reconnected_cb=self.again))

    def wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(2 * PATIENCE)

    async def again(self):
        for tell in self.reconnected:
            tell(None)

    def publish(self, channel, message):
        async def publish():
            # The client would keep it for later and call that a success.
            if not self.client.is_connected:
                raise ConnectionError("not connected to NATS")
            await self.client.publish(self.subject(channel), json.dumps(message).encode())
            await self.client.flush(PATIENCE)

        self.wait(publish())

    def messages(self, pattern):
        heard = queue.Queue(10_000)

        async def hear(message):
            # Waiting here would stop this client's publishing as well; what is dropped is found by its missing number.
            if not heard.full():
                heard.put(json.loads(message.data))

        async def subscribe():
            await self.client.subscribe(self.subject(pattern), cb=hear)
            await self.client.flush(PATIENCE)

        self.wait(subscribe())
        self.reconnected.append(heard.put)
        yield None
        while True:
            yield heard.get()

    def subject(self, channel):
        return f"{PREFIX}.{channel}".replace("/", ".")


class Http(Bus):
    """No server beside the node: publish with POST, listen to an event stream."""

    def __init__(self, url):
        self.url = url

    def publish(self, channel, message):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{channel}", json.dumps(message).encode(), headers)
        urllib.request.urlopen(request, timeout=PATIENCE).close()

    def messages(self, pattern):
        url = f"{self.url}/events?channel={urllib.parse.quote(pattern)}"
        request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
        # The stream says something every 15 seconds, if only that it is there.
        with urllib.request.urlopen(request, timeout=40) as stream:
            yield None
            for line in stream:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])["data"]
