"""The roof: the command line, and everything run on one machine.

It alone imports several stages, and nothing imports it.
"""
