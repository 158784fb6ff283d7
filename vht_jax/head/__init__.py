"""What a head is: blendshapes, skinning and landmarks (`flame`), a few surface points (`points`), files (`load`)."""
