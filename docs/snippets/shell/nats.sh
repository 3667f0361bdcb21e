nats pub --server "$NATS_URL" clarion.orders.eu '{"id":7,"amount":"12.50"}'
