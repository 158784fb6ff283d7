"""overlay.mp4."""
