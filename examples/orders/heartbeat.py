"""A later wish: a service says every 5 seconds on `ops/heartbeat/<service>` that it lives. The service need not know.

    heartbeat.py payments --url http://127.0.0.1:9001/health     while that answers
    heartbeat.py mail -- python3 mail.py                         while that program, which is started here, runs
"""

import argparse
import signal
import subprocess
import sys
import time
import urllib.request

import bus

parser = argparse.ArgumentParser()
parser.add_argument("service")
parser.add_argument("--url")
parser.add_argument("--every", type=float, default=5)
parser.add_argument("command", nargs="*")


def lives(options, child):
    if child and child.poll() is not None:
        sys.exit(child.returncode)
    if options.url:
        try:
            urllib.request.urlopen(options.url, timeout=5).close()
        except OSError:
            return False
    return True


if __name__ == "__main__":
    options = parser.parse_args()
    child = subprocess.Popen(options.command) if options.command else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        connection = bus.connect()
        while True:
            if lives(options, child):
                beat = {"kind": "heartbeat", "service": options.service, "time": time.time()}
                try:
                    connection.publish(f"ops/heartbeat/{options.service}", beat)
                except Exception as error:
                    print(f"no heartbeat of {options.service}: {error}", flush=True)
            time.sleep(options.every)
    finally:
        if child:
            child.terminate()
