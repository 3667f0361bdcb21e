"""Every order once and in order, though the bus forgets what nobody heard: the bus says "now", the payments' HTTP says "what".

Orders are numbered without a hole. The next number is taken as it comes; any other one means that something was missed,
and that is read from the payments.
"""

import json
import os
import urllib.request


def fetch(after):
    url = f"{os.environ['PAYMENTS_URL']}/orders?after={after}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def batches(bus, after=None, fetch=fetch):
    """Lists of orders, each beginning where the last one ended. An empty list comes every few seconds at least.

    Without `after` it begins with what is paid from now on.
    """
    for heard in bus.listen("orders/*"):
        if heard and after is not None and heard["seq"] <= after:
            continue
        if heard and after is not None and heard["seq"] == after + 1:
            after = heard["seq"]
            yield [heard]
            continue
        try:
            while True:
                found = fetch(1 << 60 if after is None else after)
                after = found["orders"][-1]["seq"] if found["orders"] else (found["last"] if after is None else after)
                yield found["orders"]
                if after >= found["last"] or not found["orders"]:
                    break
        except OSError as error:
            print(f"the payments do not answer: {error}", flush=True)
            yield []
