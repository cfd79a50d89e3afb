"""What the figures say: results, goals, tables, the plot, and the law of what limits.

It stands on `measure` and `peers`; only the commands and tests import it. It starts nothing.
"""
