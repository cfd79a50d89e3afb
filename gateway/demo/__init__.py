"""The demo: sample images, a PACS that sends them, a workstation that shows only uncompressed ones.

Only `gateway.cli` imports it.
"""
