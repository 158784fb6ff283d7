"""What a frame takes from those before and after it: a pose where it has none, and less noise."""
