"""The editor without its window."""
