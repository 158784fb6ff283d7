"""What touches the machine: files, processes, compiled programs. Nothing here knows of heads."""
