"""Publishes the lines of a file, each `[subject, payload]`, as any Python backend would."""

import asyncio
import json
import sys

import nats


async def main(url, path):
    client = await nats.connect(url)
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            subject, payload = json.loads(line)
            await client.publish(subject, payload.encode())
    await client.drain()


asyncio.run(main(*sys.argv[1:]))
