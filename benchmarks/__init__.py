"""What the roads of a query cost, side by side: `make bench` prints the tables, `benchmarks/report.py` the page."""
