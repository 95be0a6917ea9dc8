"""A directory for `PYTHONPATH`: what a process does before it has threads."""
