"""A push server on Tornado, as people write it: a WebSocket on a path hears what is posted to that path."""

import asyncio
import collections
import sys

import tornado.web
import tornado.websocket

SUBSCRIBERS = collections.defaultdict(set)


class Channel(tornado.websocket.WebSocketHandler):
    """A GET is a subscriber, a POST is a message."""

    def check_origin(self, origin):
        return True

    def open(self, channel):
        self.channel = channel
        self.set_nodelay(True)
        SUBSCRIBERS[channel].add(self)

    def on_message(self, message):
        pass

    def on_close(self):
        SUBSCRIBERS[self.channel].discard(self)

    async def post(self, channel):
        message = self.request.body.decode()
        for subscriber in SUBSCRIBERS.get(channel, ()):
            # Not awaited: a slow client must not hold the others up.
            subscriber.write_message(message)
        self.finish("{}")


async def main():
    application = tornado.web.Application([(r"/(.+)", Channel)], log_function=lambda handler: None)
    application.listen(int(sys.argv[1]), address="127.0.0.1", backlog=4096)
    await asyncio.Event().wait()


asyncio.run(main())
