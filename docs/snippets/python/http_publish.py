# pip install requests
import os

import requests

answer = requests.post(
    os.environ["CLARION_URL"] + "/orders/eu",  # http://127.0.0.1:8000
    json={"id": 7, "amount": "12.50"},
    headers={"X-API-Key": os.environ["CLARION_API_KEY"]},
    timeout=10,
)
answer.raise_for_status()  # 503: try again; 504: nobody can know
