"""Transcoding, on Celery prefork workers."""
