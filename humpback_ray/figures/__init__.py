"""A run's folder in numbers, for the terminal, the report and the proof."""
