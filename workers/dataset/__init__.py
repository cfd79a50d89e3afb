"""Everything of a data set around the pixels: elements, attributes, fragments, overlays, frames.

It stands on `codecs`; `workers.transcode` and `workers.verify` import it.
"""
