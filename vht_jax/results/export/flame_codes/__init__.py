"""FLAME's codes as other programs take them: angles, re-fits to other FLAME files, and files of torch without torch."""
