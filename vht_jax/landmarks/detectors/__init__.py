"""Who finds the face and its landmarks in an image: one file for each; `vht_jax.landmarks` names them (`make_detector`)."""
