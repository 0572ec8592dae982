"""How far several scorers agree on the same texts: verb `compare`."""
