"""Facts of the standard that several stages need: transfer syntaxes, files (PS3.10), PDUs (PS3.8), UIDs.

Every stage may import it. It knows no spool, no settings and no message.
"""
