"""The spool and what makes it durable: instances, markers, leases, renditions, operators' orders.

Every stage reads and writes the spool through this package alone. It knows no Redis, Celery or association.
"""
