"""What `sgeat` is told of corpora, rows and vectors, and how it goes about it."""
