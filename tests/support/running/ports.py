"""Loopback ports."""

import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on now, and that was not given out before: it may not be in use yet."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


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
