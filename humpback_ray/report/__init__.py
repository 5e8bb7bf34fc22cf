"""What the folder of a run says."""
