redis-cli -u "$REDIS_URL" PUBLISH clarion:orders/eu '{"id":7,"amount":"12.50"}'   # redis://127.0.0.1:6379
