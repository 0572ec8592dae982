"""Speed beside peers, a file a row of docs/PERFORMANCE.md; `python -m benchmarks.speed.run`."""
