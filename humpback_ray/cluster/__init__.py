"""What a Ray cluster has, and how one is reached."""
