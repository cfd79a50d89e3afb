"""The file that holds an encoded data set: mapped for its headers, read for its pixels."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from dicomferry.dicom.elements import Bytes
from dicomferry.errors import Permanent

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """An encoded data set: `view` for headers and small values, `descriptor` to read large ones."""

    view: Bytes
    descriptor: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, read from the file: pages of `view` would stay in memory."""
        parts = []
        while start < stop:
            part = os.pread(self.descriptor, stop - start, start)
            if not part:
                raise Permanent("the file ends before its data set: it is truncated")
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`, in pieces of even length."""
        for at in range(start, stop, _CHUNK):
            yield self.read(at, min(at + _CHUNK, stop))
