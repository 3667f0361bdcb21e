nats pub --server "$NATS_URL" clarion.orders.eu '{"id":7,"amount":"12.50"}'       # nats://127.0.0.1:4222
