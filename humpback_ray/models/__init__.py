"""Model folders without torch: their files and faults, local copies, wrapping and card."""
