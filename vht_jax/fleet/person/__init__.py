"""Clips of one person: `--person` (docs/fleet.md)."""
