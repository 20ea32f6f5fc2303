"""Clusters the network's features before every round of DeepCluster."""

import numpy as np

from la_tf.baselines.whitening import pca_whitened
from la_tf.callbacks.clustering_rounds import ClusteringCallback


class DeepClusterCallback(ClusteringCallback):
    """Gives `DeepCluster` its pseudo-classes: one k-means of whitened features of centre crops.

    The vectors that `center_crop_embeddings` returns are the features before L2 normalisation, and
    the configuration is one that `resolve` has set for DeepCluster.
    """

    def __init__(self, *arguments, pca_dim: int, **options):
        """`pca_dim` is the number of principal components; the rest as `ClusteringCallback`."""
        super().__init__(*arguments, **options)
        self.pca_dim = pca_dim

    def cluster(self, round_: int) -> None:
        """Sets the labels of round `round_`, and begins it."""
        super().cluster(round_)
        self.model.begin_round(round_)

    def _vectors(self) -> np.ndarray:
        return pca_whitened(super()._vectors(), self.pca_dim)
