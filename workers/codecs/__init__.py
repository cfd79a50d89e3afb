"""Codestreams and samples: decoders, encoders, and the headers of codestreams. Nothing of DICOM data sets.

`dataset` and the modules of `workers` import it; it imports neither.
"""
