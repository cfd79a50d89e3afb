"""The acceptor: takes every object, makes it safe, then answers success."""
