"""Decides what is done next: a pure queue manager, and the service that feeds it."""
