"""Plays the customers and the payment provider: pays orders at random moments, and repeats a call-back now and then."""

import argparse
import math
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request

CALLBACK = "/order_center/order/alipay/callback"
REGIONS = {"asia": 5, "europe": 4, "america": 3, "africa": 1}


def call_back(order):
    url = f"{os.environ['PAYMENTS_URL']}{CALLBACK}?{urllib.parse.urlencode(order)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read() == b"success"
    except OSError:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=1.0, help="orders a second")
    parser.add_argument("--count", type=int, default=0, help="how many; 0: for ever")
    options = parser.parse_args()
    first = int(time.time()) % 1_000_000
    number = 0
    while not options.count or number < options.count:
        number += 1
        region = random.choices(list(REGIONS), REGIONS.values())[0]
        amount = math.exp(random.gauss(3.6, 0.7))
        order = {"id": f"{first}-{number}", "amount": f"{amount:.2f}", "region": region, "buyer": random.randint(100, 999)}
        # As providers do: again and again until it is taken, and sometimes once more.
        while not call_back(order):
            time.sleep(random.uniform(0.5, 1.5))
        if random.random() < 0.1:
            call_back(order)
        # The rate swells and sinks, so that there is something to see.
        rate = options.rate * (1 + 0.7 * math.sin(time.time() / 25))
        time.sleep(random.expovariate(rate))
