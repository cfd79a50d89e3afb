"""What operators type: `status`, `explain`, `dead`, `quarantine`, `reroute`, `echo`, `probe`, `transcode`.

Each module serves a few commands of `gateway.cli`, which imports it when the command runs.
"""
