"""What surrounds the tracking: the command line, the overlay, the report."""
