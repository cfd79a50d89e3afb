"""Codestreams and samples: decoders, encoders, and the headers of codestreams. Nothing of DICOM data sets.

`dataset` and the modules of `workers` import it; it imports neither.
"""

import os

# Before a codec library is loaded: OpenJPEG and others would start threads beside the worker's processes.
os.environ.setdefault("OPJ_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
