"""The way in: what a door receives becomes an instance on the spool; only then is success answered.

`dimse` is the door for C-STORE. What every door needs stands here: admission, reception, the header, the
quarantine. The command line may import it; no other stage does.
"""
