"""The text of a cell becomes a `CellResult`. Synchronous; knows no event loop and no process."""
