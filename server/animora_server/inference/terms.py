"""The parts of a post that a model knows it by, and the terms that a logit is made of. See explanation."""

import numpy as np

PARTS = 3  # id, image, caption
TERMS = 8  # as in scoring.terms.MODEL_TERMS
# float64 (8, parts): coalition c has part p where bit p of c is set; the first is empty, the last the post.
COALITIONS = np.array([[c >> p & 1 for p in range(PARTS)] for c in range(2**PARTS)], np.float64)
