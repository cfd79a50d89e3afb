"""A source in every transfer syntax that the engine decodes, made by encoders that are not ours."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_LE
from tests.support.images import independent
from tests.support.images.gallery import BY_NAME
from tests.support.images.independent import DEFLATED_FRAME, HTJ2K, JPEG, RLE

# A grey and a colour image for each syntax, as far as the encoders at hand can.
KINDS: dict[str, tuple[str, ...]] = {
    RLE: ("grey16-signed", "rgb8-planar"),
    DEFLATED_FRAME: ("grey12-signed", "rgb8"),
    JPEG + "50": ("grey8", "rgb8"),
    JPEG + "51": ("grey12", "grey8-inverted"),
    JPEG + "57": ("grey16", "rgb8"),
    JPEG + "70": ("grey12-signed", "rgb8"),
    JPEG + "80": ("grey10", "rgb8-planar"),
    JPEG + "81": ("grey12", "rgb8"),
    JPEG + "90": ("grey12-signed", "rgb8"),
    JPEG + "91": ("grey8", "rgb8"),
    HTJ2K[0]: ("grey12", "rgb8-planar"),
    HTJ2K[1]: ("grey16", "rgb8"),
    HTJ2K[2]: ("grey8", "rgb8"),
    JPEG + "110": ("grey12", "rgb8"),
    JPEG + "111": ("grey8", "rgb8"),
    JPEG + "112": ("grey8", "rgb8"),
}
_NATIVE_KINDS = ("grey12-signed", "rgb8-planar")

Maker = Callable[[str, str], Path]


def kinds(uid: str) -> tuple[str, ...]:
    """Names of the pictures that a source in `uid` is made of."""
    return _NATIVE_KINDS if BY_UID[uid].native else KINDS[uid]


def maker(folder: Path) -> Maker:
    """A function that makes the picture of a name in a syntax, in `folder`, once."""

    @cache
    def make(name: str, uid: str) -> Path:
        picture = BY_NAME[name]
        native = folder / f"{name}.dcm"
        if not native.exists():
            picture.write(native)
        if uid == EXPLICIT_LE:
            return native
        if not BY_UID[uid].native and picture.planar:
            # DCMTK encodes the second frame of planar colour wrongly; planes are tried natively.
            native = replace(picture, planar=0).write(folder / f"{name}.by-pixel.dcm")
        return independent.encode(native, folder / f"{name}.{BY_UID[uid].label}.dcm", uid)

    return make
