"""Who finds the face and its landmarks in an image: one file for each."""
