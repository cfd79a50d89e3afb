"""What is done next: a pure queue manager decides, and a service around it feeds it and carries it out.

The command line starts it and reads its history and plan. No other stage imports it.
"""
