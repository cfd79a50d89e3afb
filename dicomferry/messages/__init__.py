"""What travels by Redis and Celery: batches of work, events, and the connection to the broker.

Every stage may import it. A message holds ids and UIDs, never pixels or patient data.
"""
