"""What the unknowns are fitted to: one file for each kind of evidence."""
