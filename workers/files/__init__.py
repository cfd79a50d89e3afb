"""Transcoding of files and folders without any service, over all cores.

Only the command line imports it.
"""
