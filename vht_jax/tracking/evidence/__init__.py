"""What the images say about the landmarks, before anything is fitted to them."""
