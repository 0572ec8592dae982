"""Models on disk: read and written whole, one parameter at a time, split, counted, compared."""
