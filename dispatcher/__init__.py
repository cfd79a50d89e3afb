"""What is done next: a pure queue manager decides; the service feeds it events and carries out its commands.

The command line starts it and reads its history, plan and status. No other stage imports it.
"""
