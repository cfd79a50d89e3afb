"""The commands of GDCM and DCMTK that decode or encode one file, by the keyword of its transfer syntax."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

# Not a venv's: pynetdicom and others install tools of the same names.
_FOLDERS = "/usr/bin:/usr/local/bin"

DCMTK_DECODE = {
    "RLELossless": ("dcmdrle",),
    "JPEGBaseline8Bit": ("dcmdjpeg", "+cn"),
    "JPEGExtended12Bit": ("dcmdjpeg",),
    "JPEGLosslessSV1": ("dcmdjpeg",),
    "JPEGLSLossless": ("dcmdjpls",),
    "DeflatedExplicitVRLittleEndian": ("dcmconv", "+te"),
    "ExplicitVRBigEndian": ("dcmconv", "+te"),
    "ImplicitVRLittleEndian": ("dcmconv", "+te"),
}
DCMTK_ENCODE = {
    "RLELossless": ("dcmcrle",),
    "JPEGBaseline8Bit": ("dcmcjpeg", "+eb"),
    "JPEGExtended12Bit": ("dcmcjpeg", "+ee"),
    "JPEGLosslessSV1": ("dcmcjpeg", "+e1"),
    "JPEGLSLossless": ("dcmcjpls", "+el"),
    "DeflatedExplicitVRLittleEndian": ("dcmconv", "+td"),
    "ExplicitVRBigEndian": ("dcmconv", "+tb"),
    "ImplicitVRLittleEndian": ("dcmconv", "+ti"),
}
GDCM_DECODE = dict.fromkeys(
    ("RLELossless", "JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLosslessSV1", "JPEGLSLossless",
     "JPEG2000Lossless", "JPEG2000"),
    ("gdcmconv", "--raw"),
)  # fmt: skip
GDCM_ENCODE = {
    "RLELossless": ("gdcmconv", "--rle"),
    "JPEGBaseline8Bit": ("gdcmconv", "--jpeg", "--lossy", "-q", "90"),
    "JPEGLosslessSV1": ("gdcmconv", "--jpeg"),
    "JPEGLSLossless": ("gdcmconv", "--jpegls"),
    "JPEG2000Lossless": ("gdcmconv", "--j2k"),
    "ImplicitVRLittleEndian": ("gdcmconv", "--implicit"),
}


def tool_call(words: tuple[str, ...], source: Path, target: Path) -> Callable[[], object] | None:
    """A call of the tool on `source`; None if it is not installed or cannot do this."""
    program = shutil.which(words[0], path=_FOLDERS)
    if program is None:
        return None
    command = [program, *words[1:], str(source), str(target)]
    target.unlink(missing_ok=True)
    if subprocess.run(command, check=False, capture_output=True).returncode or not target.exists():
        return None
    return lambda: subprocess.run(command, check=True, capture_output=True)
