"""The journal of runs: what must survive a crash."""
