"""The way in: what a door receives becomes an instance on the spool; only then does it answer success.

`dimse` is the door for C-STORE. This package holds what every door needs: admission, reception, the
header, the quarantine. The command line may import it; no other stage does.
"""
