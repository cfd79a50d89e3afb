"""The commands of operators, from `status` and `explain` to `probe` and `transcode`.

`operate` has the Typer functions of commands that take filters or a destination. It and `gateway.cli` import
the other modules when a command runs; nothing else imports them.
"""
