"""The door out for DIMSE: associations as their requestor, C-STORE and C-ECHO (PS3.7, PS3.8).

The forwarder uses it, and so does the command line for `echo` and `probe`.
"""
