"""Who takes part: the contenders, the sender and the sink at their ends, and the images that they get.

It stands on `machine`; `measure`, `report` and the commands import it. It measures nothing.
"""
