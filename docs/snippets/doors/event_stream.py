import http.client
import os
import random
import time
import urllib.error
import urllib.request


def messages(url, token=None):
    """The payload of each event, for ever; comes back by itself."""
    request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                lines = []
                for line in answer:
                    line = line.rstrip(b"\r\n")
                    if line.startswith(b"data:"):
                        lines.append(line[5:].removeprefix(b" ").decode())
                    elif not line and lines:  # an empty line ends an event
                        yield "\n".join(lines)
                        lines = []
        except urllib.error.HTTPError:  # 401, 403, 404: for good
            raise
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(random.uniform(0, 5))


url = os.environ["CLARION_URL"] + "/news"  # http://127.0.0.1:8000
for message in messages(url, os.environ.get("CLARION_TOKEN")):
    print(message, flush=True)
