"""Every part on one machine: the supervisor of `up`, its warden, the private Redis, Flower, health checks.

`gateway.cli` imports it; the demo imports its warden and its requestor.
"""
