"""The loop that asks a model for cells and runs them until there is an answer."""
