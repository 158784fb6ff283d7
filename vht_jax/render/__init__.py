"""From a mesh to a picture."""
