"""Models, vocabularies and adaptations of other libraries: read, and written for them to read."""
