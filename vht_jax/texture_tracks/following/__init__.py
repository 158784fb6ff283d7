"""Points of the skin in images: where they start, what another frame shows of them, where they are found."""
