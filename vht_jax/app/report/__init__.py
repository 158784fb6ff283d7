"""report.html, and what a result should be taken with a pinch of salt for."""
