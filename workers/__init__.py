"""Transcoding: Celery tasks that make renditions, each codec in a process with limits.

`codecs` knows codestreams, `dataset` the elements around them, `files` runs the same on files and folders.
The command line may import it; no other stage does.
"""
