"""A later wish: the buyer gets a "text message" on every device that he has open, by way of `users/<id>`."""

import bus
import feed


def text(order):
    return f"Your payment of {order['amount'] / 100:.2f} for order {order['id']} has arrived. Thank you!"


if __name__ == "__main__":
    connection = bus.connect()
    for orders in feed.batches(connection):
        for order in orders:
            try:
                connection.publish(f"users/{order['buyer']}", {"text": text(order), "order": order["id"], "time": order["time"]})
            except Exception as error:
                print(f"order {order['id']}: no text message: {error}", flush=True)
