"""Processes that are looked after: whoever ends is started again, as a cluster would do it."""

import random
import subprocess
import sys
import time
import urllib.request


class Crew:
    """The processes that were started. Whoever ends is started again, as a cluster would do it."""

    def __init__(self):
        self.running = {}

    def start(self, name, command):
        self.running[name] = (subprocess.Popen(command), command, time.monotonic())
        print(f"started {name} (pid {self.running[name][0].pid})", flush=True)

    def wait_for(self, name, url):
        while True:
            if self.running[name][0].poll() is not None:
                sys.exit(f"{name} could not be started")
            try:
                return urllib.request.urlopen(url, timeout=5).close()
            except OSError:
                time.sleep(0.05)

    def look_after(self):
        while True:
            for name, (child, command, since) in list(self.running.items()):
                if child.poll() is not None and time.monotonic() - since > 1:
                    self.start(name, command)
            time.sleep(random.uniform(0.2, 0.5))

    def stop(self):
        # The services first, then what they stand on.
        children = [child for child, _, _ in reversed(self.running.values())]
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(2)
            except subprocess.TimeoutExpired:
                child.terminate()  # A node leaves in order, which takes it seconds; asked twice it is gone at once.
                child.wait()
