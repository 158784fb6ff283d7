"""Who finds the face and its landmarks in an image: a file for each; `landmarks.make_detector` names them."""
