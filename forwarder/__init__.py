"""The way out: delivers objects to their destinations, and decides what each answer means.

`dimse` is the door for C-STORE. The command line may import it; no other stage does.
"""
