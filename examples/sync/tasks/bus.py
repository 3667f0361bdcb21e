"""The bus as any backend sees it: an ordinary Redis or NATS client, and the name of a channel."""

import asyncio
import json
import threading
from functools import cache

from django.conf import settings

PATIENCE = 3  # seconds that a save may be held up by a bus that does not answer


def publish(channel, message):
    client().publish(channel, json.dumps(message))


@cache
def client():
    kind = settings.BUS_URL.partition(":")[0]
    return {"redis": Redis, "rediss": Redis, "nats": Nats}[kind](settings.BUS_URL)


class Redis:
    def __init__(self, url):
        import redis

        self.client = redis.Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)

    def publish(self, channel, text):
        self.client.publish(f"{settings.BUS_PREFIX}:{channel}", text)


class Nats:
    """Its client lives in an event loop; the rest of Django does not, so it gets a thread."""

    def __init__(self, url):
        self.url, self.connection = url, None
        self.loop = asyncio.new_event_loop()
        self.lock = threading.Lock()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def publish(self, channel, text):
        # One after the other, as they were committed.
        with self.lock:
            subject = f"{settings.BUS_PREFIX}.{channel}".replace("/", ".")
            asyncio.run_coroutine_threadsafe(self.send(subject, text.encode()), self.loop).result(2 * PATIENCE)

    async def send(self, subject, payload):
        import nats

        if self.connection is None:
            self.connection = await nats.connect(self.url, max_reconnect_attempts=-1, connect_timeout=PATIENCE)
        # While it is disconnected the client would keep the message for later and call that a success.
        if not self.connection.is_connected:
            raise ConnectionError("not connected to NATS")
        await self.connection.publish(subject, payload)
        await self.connection.flush(PATIENCE)
