"""Loopback ports."""

import os
import socket
from itertools import cycle

# Below those that the kernel gives to outgoing connections (32768 and up): none of these takes one meanwhile.
# Each process of a test run has its own (pytest-xdist calls them gw0, gw1 ...).
_OWN = 1500
_FIRST = 10_000 + _OWN * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 14)
# Runs beside this one, without pytest-xdist, begin elsewhere.
_START = os.getpid() % _OWN
_ports = cycle([*range(_FIRST + _START, _FIRST + _OWN), *range(_FIRST, _FIRST + _START)])


def free_port() -> int:
    """A port that nobody listens on now, and that was not given out lately: it may not be in use yet."""
    for port in _ports:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")


def is_listening(port: int) -> bool:
    """Whether somebody listens there, found out without a connection, which a stock storescp would serve."""
    needle = f"{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:  # noqa: PTH123  a table of the kernel
            for line in lines:
                columns = line.split()
                if columns[1].endswith(f":{needle}") and columns[3] == "0A":
                    return True
    return False
