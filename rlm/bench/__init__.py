"""What benchmarks and the demo are driven by: a loopback server, a ticker, measures."""
