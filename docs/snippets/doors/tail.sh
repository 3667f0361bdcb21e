clarion tail news 'orders/**' --via "$CLARION_URL"   # http://127.0.0.1:8000
