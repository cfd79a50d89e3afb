"""The ground: what all stages agree on. Settings, errors, logs, the spool, messages, facts of the standard.

Every other package may import it. It imports none of them, and knows no stage.
"""

__version__ = "0.2.0"
