"""A later wish: the company gets a mail for each order. By SMTP when SMTP_HOST is set, into a mailbox file otherwise.

Where it stands is kept in a file, so no order is left out though this program was down.
"""

import mailbox
import os
import smtplib
from email.message import EmailMessage
from pathlib import Path

import bus
import feed

BOX = Path(os.environ.get("MAILBOX", "company.mbox"))
POSITION = BOX.with_suffix(".position")


def write(order):
    mail = EmailMessage()
    mail["From"], mail["To"] = "shop@example.com", "company@example.com"
    mail["Subject"] = f"Order {order['id']} is paid: {order['amount'] / 100:.2f}"
    mail.set_content(f"Order {order['id']} from {order['region']}, paid by {order['buyer']}.\n")
    return mail


def send(mail):
    if host := os.environ.get("SMTP_HOST"):
        with smtplib.SMTP(host, timeout=10) as server:
            server.send_message(mail)
    else:
        box = mailbox.mbox(BOX)
        box.add(mail)
        box.close()


if __name__ == "__main__":
    position = int(POSITION.read_text()) if POSITION.exists() else None
    for orders in feed.batches(bus.connect(), position):
        for order in orders:
            send(write(order))
            POSITION.write_text(str(order["seq"]))
            print(f"mailed order {order['id']}", flush=True)
