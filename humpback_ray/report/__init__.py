"""Reports on a run, read from its folder."""
