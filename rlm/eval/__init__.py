"""Tasks with a known answer, and small honest models that can be asked about them."""
