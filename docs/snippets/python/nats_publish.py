# pip install nats-py
import asyncio
import json
import os

import nats


async def main():
    client = await nats.connect(os.environ["NATS_URL"])  # nats://127.0.0.1:4222
    await client.publish("clarion.orders.eu", json.dumps({"id": 7, "amount": "12.50"}).encode())
    await client.drain()  # publishing only writes to a buffer


asyncio.run(main())
