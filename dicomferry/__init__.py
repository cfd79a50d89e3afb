"""What the stages of dicomferry agree on: settings, spool, names, transfer syntaxes, errors."""

__version__ = "0.1.0"
