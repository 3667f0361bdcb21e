"""A push server on Tornado, as people write it: a WebSocket on a path hears what is posted to that path, or what is
published to `clarion:<path>` on the Redis that is named."""

import asyncio
import collections
import sys

import tornado.web
import tornado.websocket

SUBSCRIBERS = collections.defaultdict(set)


def deliver(channel, message):
    for subscriber in SUBSCRIBERS.get(channel, ()):
        # Not awaited: a slow client must not hold the others up.
        subscriber.write_message(message)


class Bus:
    """One connection to Redis, with a subscription for each channel that somebody hears."""

    def __init__(self, address):
        import redis.asyncio

        host, port = address.rsplit(":", 1)
        self.pubsub = redis.asyncio.Redis(host=host, port=int(port), decode_responses=True).pubsub()
        self.standing = {}

    async def listen(self, channel):
        """Returns when the subscription stands."""
        if channel not in self.standing:
            self.standing[channel] = asyncio.get_running_loop().create_future()
            await self.pubsub.subscribe(f"clarion:{channel}")
        await asyncio.shield(self.standing[channel])

    async def run(self):
        await self.pubsub.subscribe("peer")
        async for heard in self.pubsub.listen():
            channel = heard["channel"].removeprefix("clarion:")
            if heard["type"] == "message":
                deliver(channel, heard["data"])
            elif heard["type"] == "subscribe" and channel in self.standing:
                self.standing[channel].set_result(None)


class Channel(tornado.websocket.WebSocketHandler):
    """A GET is a subscriber, a POST is a message."""

    bus = None

    def check_origin(self, origin):
        return True

    async def prepare(self):
        if self.bus is not None and self.request.method == "GET":
            await self.bus.listen(self.path_args[0])

    def open(self, channel):
        self.channel = channel
        self.set_nodelay(True)
        SUBSCRIBERS[channel].add(self)

    def on_message(self, message):
        pass

    def on_close(self):
        SUBSCRIBERS[self.channel].discard(self)

    async def post(self, channel):
        deliver(channel, self.request.body.decode())
        self.finish("{}")


async def main():
    running = []
    if len(sys.argv) > 2:
        Channel.bus = Bus(sys.argv[2])
        running.append(asyncio.create_task(Channel.bus.run()))
    application = tornado.web.Application([(r"/(.+)", Channel)], log_function=lambda handler: None)
    application.listen(int(sys.argv[1]), address="127.0.0.1", backlog=4096)
    await asyncio.gather(asyncio.Event().wait(), *running)


asyncio.run(main())
