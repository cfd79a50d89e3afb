"""Errors, whose class is their disposition.

FerryError
├── Transient       try again later: a full disk, an absent Redis, a workstation that is off
├── Permanent       trying again gives the same: park the instance with this reason
│   └── Unsuitable      the instance is sound, another transfer syntax may do
│       └── NoPixelData     it has no pixels to compress
└── Misconfigured   refuse to start: the operator has to change something

All arguments go to ``super().__init__`` by position, so that they survive a process pool's pickle.
"""


class FerryError(Exception):
    """Anything that dicomferry raises on purpose; ``str()`` is a sentence for an operator."""


class Transient(FerryError):  # noqa: N818  the disposition is the name
    """The same call may succeed later."""


class Permanent(FerryError):  # noqa: N818
    """The same call will fail again; what it was about is parked with this reason."""


class Unsuitable(Permanent):
    """The instance is sound, but this transfer syntax cannot hold it; another one may."""


class NoPixelData(Unsuitable):
    """It has no pixels: a compressed transfer syntax says nothing of such an instance (PS3.5 A.4)."""


class Misconfigured(FerryError):  # noqa: N818
    """Nothing can start before the configuration or the machine is changed."""


def place(error: BaseException) -> str:
    """Module and line that raised: what may be said of an error whose text may quote a data set."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else "an unknown place"
