# Past the nodes, like redis-cli, and the same on NATS:
clarion publish orders/eu '{"id":7,"amount":"12.50"}' --via "$REDIS_URL"
clarion publish orders/eu '{"id":7,"amount":"12.50"}' --via "$NATS_URL"
# Through a node; the key is in CLARION_API_KEY:
clarion publish orders/eu '{"id":7,"amount":"12.50"}' --via "$CLARION_URL"
