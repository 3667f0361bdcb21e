# pip install redis
import json
import os

import redis

client = redis.from_url(os.environ["REDIS_URL"])  # redis://127.0.0.1:6379
client.publish("clarion:orders/eu", json.dumps({"id": 7, "amount": "12.50"}))
