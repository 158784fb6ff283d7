"""VHT's folders of frames: extraction, landmarks beside the images, and reading them as observations."""
