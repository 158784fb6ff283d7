"""A rigid head from its texture tracks alone: poses and camera, and how sure the focal length is."""
