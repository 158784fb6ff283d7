"""Many clips on many processors: `vht-fleet` (docs/fleet.md)."""
