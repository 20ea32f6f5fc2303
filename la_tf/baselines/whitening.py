"""Features as DeepCluster clusters them."""

import numpy as np

from la_tf.faiss_library import faiss

# Directions whose variance is below this share of the largest are not blown up to the size of the
# others: they are rounding, such as that of a feature that is the same for all images.
SMALLEST_VARIANCE = 1e-6


def pca_whitened(features: np.ndarray, dim: int) -> np.ndarray:
    """Features by their principal components, each of variance 1, then scaled to unit rows.

    Args:
      features: [N, D].
      dim: components to keep; D or N at most are kept.

    Returns:
      float32 [N, min(dim, D, N)], rows of length 1.
    """
    features = np.ascontiguousarray(features, np.float32)
    count, width = features.shape
    pca = faiss.PCAMatrix(width, min(dim, width, count), -0.5)
    pca.train(features)
    pca.epsilon = SMALLEST_VARIANCE * float(faiss.vector_to_array(pca.eigenvalues)[0])
    pca.prepare_Ab()
    rows = pca.apply(features)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
