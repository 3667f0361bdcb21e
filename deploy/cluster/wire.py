"""A slow wire between two links, for kernels without sch_netem: `wire.py LINK LINK DELAY LOSS RATE`.

DELAY in seconds and LOSS in per cent for each direction, RATE in bits a second or 0. Says `ready` and runs until it is killed.
"""

import random
import select
import socket
import sys
import time
from collections import deque

# From linux/if_packet.h and linux/if_ether.h; Python does not name them.
SOL_PACKET, ADD_MEMBERSHIP, PROMISCUOUS, VNET_HEADER, IGNORE_OUTGOING, ALL = 263, 1, 1, 15, 23, 3
# What may be under way in one direction, as netem's own limit.
MOST = 1000
# A frame may be one that the network card is to cut in pieces, and has a header of 10 bytes that says so.
LONGEST = 65_536 + 64


def attach(link):
    """Takes all that comes in by a link."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    # Checksums and lengths are left to network cards, and a link between namespaces has none: the header carries
    # what is still to be done.
    port.setsockopt(SOL_PACKET, VNET_HEADER, 1)
    port.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
    index = socket.if_nametoindex(link)
    port.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, index.to_bytes(4, sys.byteorder) + PROMISCUOUS.to_bytes(2, sys.byteorder) + bytes(10))
    port.bind((link, ALL))
    port.setblocking(False)
    return port


class Direction:
    """What is under way from one link to the other."""

    def __init__(self, source, target, delay, loss, rate):
        self.source, self.target = source, target
        self.delay, self.loss, self.rate = delay, loss / 100, rate
        self.under_way, self.free_at = deque(), 0.0

    def take(self, now):
        try:
            frame = self.source.recv(LONGEST)
        except OSError:
            return  # The link is down for now.
        if len(self.under_way) >= MOST or random.random() < self.loss:
            return
        self.free_at = max(now, self.free_at) + (len(frame) * 8 / self.rate if self.rate else 0)
        self.under_way.append((self.free_at + self.delay, frame))

    def give(self, now):
        while self.under_way and self.under_way[0][0] <= now:
            try:
                self.target.send(self.under_way.popleft()[1])
            except OSError:
                pass  # A wire whose other end is down.

    def due(self):
        return self.under_way[0][0] if self.under_way else float("inf")


def main():
    one, other = map(attach, sys.argv[1:3])
    slowness = [float(argument) for argument in sys.argv[3:6]]
    directions = {one: Direction(one, other, *slowness), other: Direction(other, one, *slowness)}
    print("ready", flush=True)
    sys.stdout.close()
    while True:
        due = min(direction.due() for direction in directions.values())
        wait = None if due == float("inf") else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([one, other], [], [], wait)
        for port in readable:
            directions[port].take(time.monotonic())
        for direction in directions.values():
            direction.give(time.monotonic())


if __name__ == "__main__":
    main()
