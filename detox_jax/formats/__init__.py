"""How rows of files are read: JSON Lines, arrays, Arrow, TFDS, the layouts of other projects."""
