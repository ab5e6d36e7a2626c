"""Models: their names, where they come from, and their files on this machine."""
