"""What surrounds the tracking: pages, plans, the command line."""
