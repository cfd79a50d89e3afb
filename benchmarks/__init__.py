"""Benchmarks: commands that measure dicomferry, alone and beside others, and print tables.

Each module here is a command, run from the repository's root: `python benchmarks/pipeline.py`. Their parts
are in four rooms, each of which imports only those after it: `report`, `measure`, `peers`, `machine`.
Benchmarks may import every other package; only tests import benchmarks.
"""
