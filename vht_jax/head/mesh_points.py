"""Which of MediaPipe's 478 face mesh points the 68 + 2 landmarks are."""

import numpy as np

# They stand for iBUG's 68: chosen for the least distance to dlib's on three videos and exactly symmetric on the
# canonical mesh; then the irises of eyes 36-41 and 42-47.
IBUG68 = np.array(
  [127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356]
  + [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]
  + [168, 197, 5, 4, 75, 97, 2, 326, 305]
  + [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]
  + [61, 40, 37, 0, 267, 270, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87]
)
IRISES = np.array([468, 473])
