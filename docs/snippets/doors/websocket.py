# pip install websockets
import asyncio
import os

import websockets


async def main():
    url = os.environ["CLARION_URL"].replace("http", "ws", 1) + "/news"  # http://127.0.0.1:8000
    token = os.environ.get("CLARION_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # Connects anew when the connection is lost, after pauses that grow.
    async for socket in websockets.connect(url, additional_headers=headers):
        try:
            async for message in socket:  # str, or bytes where the payload is not UTF-8
                print(message, flush=True)
        except websockets.ConnectionClosed as closed:
            if closed.rcvd and 3500 <= closed.rcvd.code < 5000:  # for good
                raise


asyncio.run(main())
