"""The door in for DIMSE: listens, negotiates associations, takes C-STORE and C-ECHO requests (PS3.7, PS3.8).

It hands each object to `ingest.reception`. The command line starts it; nothing else imports it.
"""
