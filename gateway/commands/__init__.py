"""The commands of operators, from `status` and `explain` to `probe` and `transcode`.

`gateway.cli` imports a module only when one of its commands runs.
"""
