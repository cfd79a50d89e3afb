"""Transcoding: Celery tasks that make renditions, each codec in a process with limits.

`codecs` knows codestreams, `dataset` data sets. `transcode` makes one rendition, with its pixel data from
`native` or `encapsulated`; `batch` and `tasks` call it for Celery, `files` for files and folders without any
service. The command line may import this package; no other stage does.
"""
