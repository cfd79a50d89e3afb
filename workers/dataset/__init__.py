"""Data sets: elements, image attributes, pixel data in native form and in fragments, overlays.

It imports `codecs`; the modules of `workers` import it, nobody else.
"""
