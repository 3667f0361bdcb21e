curl -N -H 'Accept: text/event-stream' "$CLARION_URL/news"   # http://127.0.0.1:8000
