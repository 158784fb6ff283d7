"""VHT's own method: its energy, its optimiser and its calibration."""
