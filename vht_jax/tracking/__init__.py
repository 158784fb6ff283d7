"""The tracker: from a clip's images and landmarks to its identity and the pose of every frame (`pipeline`)."""
