curl --fail-with-body --max-time 10 "$CLARION_URL/orders/eu" \
  -H 'Content-Type: application/json' -H "X-API-Key: $CLARION_API_KEY" \
  -d '{"id":7,"amount":"12.50"}'   # http://127.0.0.1:8000
