"""Other libraries' checkpoints, in and out; other libraries' names stay in this room."""
