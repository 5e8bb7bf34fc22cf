"""Ray clusters: joining one, its nodes and capacity, checks, and submitted runs."""
