"""The ground of the benchmarks: starting programs, and what the kernel says of them.

Every other room may import it. It knows nothing of DICOM.
"""
