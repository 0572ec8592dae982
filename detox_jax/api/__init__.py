"""What Python calls: the verbs of the command line, with Python's values, and what they return."""
