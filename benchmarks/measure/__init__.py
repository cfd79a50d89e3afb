"""What is measured: rounds of the pipeline, its stages alone, codecs, the disk.

It stands on `peers`; `report` and the commands import it. It prints nothing.
"""
