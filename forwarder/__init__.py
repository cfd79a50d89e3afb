"""The way out: delivers what is ready to its destination, and says what each answer means.

`dimse` is the door for C-STORE. The command line may import it; no other stage does.
"""
