"""How a synchronous-looking call in a cell reaches the event loop."""
