"""What the pixels of a crop see of the head."""
