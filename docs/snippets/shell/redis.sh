redis-cli -u "$REDIS_URL" PUBLISH clarion:orders/eu '{"id":7,"amount":"12.50"}'
