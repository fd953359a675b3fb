"""Cost, measured side by side with peers in one run: `make bench` (or `python -m benchmarks [--json OUT.json]`)."""
