"""Publishes the lines of a file, each `[channel, payload]`, as any Python backend would."""

import json
import sys

import redis

url, path = sys.argv[1:]
client = redis.from_url(url)
with open(path, encoding="utf-8") as lines:
    for line in lines:
        channel, payload = json.loads(line)
        client.publish(channel, payload)
