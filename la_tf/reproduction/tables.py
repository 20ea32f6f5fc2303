"""The rows of the paper's tables, as options that differ from one base run.

Numbers are the paper's, top-1 in percent on ImageNet. Of Table 1 they are kNN with K = 200, for the
network of the scale or the paper's that is most like it; all others are of ResNet-18 and, by the
authors' logs, with K = 1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from la_tf.phases import UNTRAINED
from la_tf.reproduction.scales import Scale
from la_tf.results.paper_tables import paper_rows

Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: a run, and the paper's number for it.

    Attributes:
      name: as the paper writes it.
      options: what differs from the base run of a scale; of an untrained network, those of the run
        that it is the beginning of.
      paper: percent, or None where the paper has no number.
    """

    name: str
    options: Options
    paper: float | None = None


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
      key: what `--table` takes.
      title: what is compared.
      claim: what the paper concludes from it.
      rows: in the paper's order.
      readouts: whether its columns include readouts of all layers, as Table 1 does.
      densities: whether they are those of Figure 2.
    """

    key: str
    title: str
    claim: str
    rows: tuple[Row, ...]
    readouts: bool = False
    densities: bool = False


def paper_tables(scale: Scale) -> dict[str, PaperTable]:
    """Key -> table, with the options that a scale has for each row."""

    def h_m(num_clusterings: int, thousands: int) -> dict[str, Any]:
        """(H, m) in the paper's notation, m in thousands of ImageNet's clusters."""
        return {"num_clusterings": num_clusterings, "num_clusters": scale.clusters(thousands)}

    base, k = h_m(1, 10), scale.k
    knn = {row.method: row.imagenet_knn for row in paper_rows(scale.base.network.network)}
    ir_alone = {"ir_epochs": scale.base.schedule.epochs}
    tables = (
        PaperTable(
            "1",
            "Methods",
            "LA is above IR and DeepCluster, and all are above an untrained network.",
            (
                Row(UNTRAINED, h_m(10, 30), knn.get("Random")),
                Row("DC", {"method": "deepcluster", **scale.deepcluster}, knn.get("DC")),
                Row("IR", ir_alone, knn.get("IR (with BN)", knn.get("IR"))),
                Row("LA", h_m(10, 30), knn["LA"]),
                Row("supervised", {"method": "supervised"}),
            ),
            readouts=True,
        ),
        PaperTable(
            "4",
            "Background neighbours",
            "The nearest neighbours are the best background, then clusters, then everything.",
            (
                Row("All", base | {"background": "all"}, 30.2),
                Row("Clusters", base | {"background": "clusters"}, 33.2),
                Row("N_4096", base, 35.7),
            ),
        ),
        PaperTable(
            "5",
            "Close neighbours",
            "Clusters are better close neighbours than the image alone, and the nearest ones fail; "
            "more clusterings help, with more clusters in each.",
            (
                Row("{i}", base | {"close": "self"}, 33.9),
                Row("N_k'", base | {"close": "nearest"}, 0.1),
                Row("(1, 10k)", base, 35.7),
                Row("(3, 10k)", h_m(3, 10), 36.2),
                Row("(10, 10k)", h_m(10, 10), 36.1),
                Row("(10, 30k)", h_m(10, 30), 37.9),
                Row("DBSCAN", base | {"clusterer": "dbscan"}, None),
                Row("(3, 10k), intersection", h_m(3, 10) | {"combine": "intersection"}, None),
            ),
        ),
        PaperTable(
            "s1",
            "Number of clusters and clusterings",
            "More clusterings need more clusters in each.",
            (
                Row("(1, 1k)", h_m(1, 1), 35.2),
                Row("(1, 10k)", base, 35.7),
                Row("(1, 20k)", h_m(1, 20), 35.0),
                Row("(3, 10k)", h_m(3, 10), 36.2),
                Row("(6, 10k)", h_m(6, 10), 37.3),
                Row("(10, 10k)", h_m(10, 10), 36.1),
                Row("(10, 30k)", h_m(10, 30), 37.9),
            ),
        ),
        PaperTable(
            "s3",
            "k, and what is clustered how often",
            "None of them matters much.",
            (
                Row("Baseline", base, 35.7),
                Row("k = 2048", base | {"k": k // 2}, 35.4),
                Row("k = 8192", base | {"k": 2 * k}, 35.8),
                Row("center_crop", base | {"cluster_input": "center_crops"}, 35.8),
                Row("more_freq", base | {"cluster_every_steps": scale.often}, 35.7),
            ),
        ),
        PaperTable(
            "figure2",
            "Densities",
            "The local density of LA lies far above that of IR, the background density does not.",
            (Row("IR", ir_alone), Row("LA", h_m(10, 30))),
            densities=True,
        ),
    )
    return {table.key: table for table in tables}
