# pip install requests
import os
import random
import time

import requests


def messages(url, headers):
    """The payload of each event, for ever; comes back by itself."""
    while True:
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
                answer.raise_for_status()
                lines = []
                for line in answer.iter_lines(chunk_size=None, decode_unicode=False):
                    field, _, value = line.partition(b":")
                    if field == b"data":
                        lines.append(value.removeprefix(b" ").decode())
                    elif not line and lines:  # an empty line ends an event
                        yield "\n".join(lines)
                        lines = []
        except requests.HTTPError:  # 401, 403, 404: for good
            raise
        except requests.RequestException:
            pass
        time.sleep(random.uniform(0, 5))


headers = {"Accept": "text/event-stream"}
if token := os.environ.get("CLARION_TOKEN"):
    headers["Authorization"] = f"Bearer {token}"
for message in messages(os.environ["CLARION_URL"] + "/news", headers):  # http://127.0.0.1:8000
    print(message, flush=True)
