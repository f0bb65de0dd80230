"""How requests travel: one small protocol over several HTTP libraries."""
