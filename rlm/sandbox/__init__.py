"""Where cells run: inline, or in a worker process."""
