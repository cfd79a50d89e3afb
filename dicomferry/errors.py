"""Errors: the class of an error says what is to be done about it.

FerryError
├── Transient       try again later: a full disk, an absent Redis, a workstation that is off
├── Permanent       trying again fails again: park the instance with this reason
│   └── Unsuitable      the instance is sound, another transfer syntax may work
│       └── NoPixelData     it has no pixels to compress
└── Misconfigured   refuse to start: the operator has to change something

Pass all arguments to ``super().__init__`` by position: else a process pool cannot pickle the error.
"""


class FerryError(Exception):
    """Every error that dicomferry raises on purpose; ``str()`` is a sentence for an operator."""


class Transient(FerryError):  # noqa: N818  the disposition is the name
    """The same call may succeed later."""


class Permanent(FerryError):  # noqa: N818
    """The same call will fail again; the instance is parked with this reason."""


class Unsuitable(Permanent):
    """The instance is sound, but this transfer syntax cannot hold it; another one may."""


class NoPixelData(Unsuitable):
    """The instance has no pixels; compressed transfer syntaxes are not defined for it (PS3.5 A.4)."""


class NothingDoneError(FerryError):
    """A batch has ended in order and done none of its work; the message is its outcome, for Flower."""


class Misconfigured(FerryError):  # noqa: N818
    """Nothing can start until the operator changes the configuration or the machine."""


def location_of(error: BaseException) -> str:
    """Module and line that raised `error`; safe to show where its text may quote a data set."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else "an unknown place"
