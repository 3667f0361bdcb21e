"""A later wish: an alarm on `ops/alarms` when a service that had a heartbeat has been silent for 30 seconds."""

import os
import time

import bus

SILENCE = float(os.environ.get("SILENCE", "30"))


class Watch:
    def __init__(self, silence):
        self.silence = silence
        self.last = {}
        self.silent = set()

    def beat(self, service, now):
        self.last[service] = now

    def look(self, now):
        """The alarms that are due, each once, and the all-clear of those that are back."""
        due = []
        for service, last in self.last.items():
            late = now - last >= self.silence
            if late and service not in self.silent:
                self.silent.add(service)
                due.append((service, f"no heartbeat of {service} for {now - last:.0f} s", False))
            elif not late and service in self.silent:
                self.silent.remove(service)
                due.append((service, f"{service} is back", True))
        return due


if __name__ == "__main__":
    connection, watch = bus.connect(), Watch(SILENCE)
    for heard in connection.listen("ops/heartbeat/*", every=1):
        if heard:
            watch.beat(heard["service"], time.monotonic())
        for service, text, over in watch.look(time.monotonic()):
            print(text, flush=True)
            alarm = {"kind": "alarm", "key": f"service {service}", "text": text, "over": over, "time": time.time()}
            try:
                connection.publish("ops/alarms", alarm)
            except Exception as error:
                print(f"not published: {error}", flush=True)
