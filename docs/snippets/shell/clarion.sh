clarion publish orders/eu '{"id":7,"amount":"12.50"}' --via "$REDIS_URL"     # past the nodes, like redis-cli
clarion publish orders/eu '{"id":7,"amount":"12.50"}' --via "$NATS_URL"      # the same on NATS
clarion publish orders/eu '{"id":7,"amount":"12.50"}' --via "$CLARION_URL"   # through a node; the key is in CLARION_API_KEY
