"""The requestor: delivers what is ready, on a Celery worker with threads."""
