"""The two kNN accuracies under all of their names: in records, in tables, and in words."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class KNNMetric:
    """Held-out accuracy by votes of the k nearest rows (section 4.2), and its name in tables."""

    k: int
    column: str

    @property
    def field(self) -> str:
        """Its name in a record of metrics.jsonl."""
        return f"knn{self.k}"

    @property
    def words(self) -> str:
        """What a person reads."""
        return f"K = {self.k}"


# The paper's KNN; its ablations are, by the authors' logs, at K = 1.
KNN, KNN1 = KNNMetric(200, "KNN"), KNNMetric(1, "KNN K=1")
KNN_METRICS = (KNN, KNN1)


def record_fields(accuracy: dict[int, float]) -> dict[str, float]:
    """K -> accuracy as the fields of a record."""
    return {metric.field: accuracy[metric.k] for metric in KNN_METRICS}
