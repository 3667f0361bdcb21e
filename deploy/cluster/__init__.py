"""The cluster that `deploy/local` builds on one machine, out of network namespaces instead of containers."""


class Trouble(Exception):
    """What does not work and what helps, for people."""
