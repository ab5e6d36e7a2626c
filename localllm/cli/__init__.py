"""The command line: app.py is its table of contents, every other file but three is one command.

The three: console.py is the only place that prints, failures.py maps errors to exit codes, and
flags.py holds the flags that several commands share. Commands never import each other.
"""
