"""What a run's folder says, in numbers: read by the terminal, the report and the proof."""
