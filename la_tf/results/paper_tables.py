"""The numbers of the paper's tables; top-1 accuracy in percent.

Zhuang, Zhai and Yamins, ICCV 2019. None of them was measured by this project.
"""

import dataclasses

from la_tf.results.evaluations import READOUTS
from la_tf.results.knn_metric import KNN


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One method with one network; None where the paper has no number.

    Attributes:
      network: as `build_network` knows it.
      method: as the paper calls it.
      imagenet: readouts on conv1 to conv5, Table 1.
      imagenet_knn: kNN with K = 200 against the memory bank, Table 1.
      places: readouts on conv1 to conv5 on Places205, Table 2.
      places_knn: kNN with K = 200 against centre crops, Table 2 of the supplement.
    """

    network: str
    method: str
    imagenet: tuple[float, ...]
    imagenet_knn: float | None = None
    places: tuple[float, ...] | None = None
    places_knn: float | None = None

    def accuracy(self, transfer: bool) -> dict[str, float]:
        """Column -> percent on ImageNet, or for `transfer` on Places; what there is."""
        readouts = self.places if transfer else self.imagenet
        knn = self.places_knn if transfer else self.imagenet_knn
        values = dict(zip(READOUTS, readouts or (), strict=False))
        return values if knn is None else {**values, KNN.column: knn}


# The rows of Tables 1 and 2 in their order, with the columns of `PaperRow`. "IR" is as in Wu et al.
# 2018, "IR (with BN)" and the deeper "DC" are the authors' own runs.
_TABLE = """
alexnet  | Random       | 11.6 17.1 16.9 16.3 14.1 |  3.5 | 15.7 20.3 19.8 19.1 17.5 |
alexnet  | Context      | 16.2 23.3 30.2 31.7 29.6 |      | 19.7 26.7 31.9 32.7 30.9 |
alexnet  | Color        | 13.1 24.8 31.0 32.6 31.8 |      | 22.0 28.7 31.8 31.3 29.7 |
alexnet  | Jigsaw       | 19.2 30.1 34.7 33.9 28.3 |      | 23.0 32.1 35.5 34.8 31.3 |
alexnet  | Count        | 18.0 30.6 34.3 32.5 25.7 |      |                          |
alexnet  | SplitBrain   | 17.7 29.3 35.4 35.2 32.8 | 11.8 | 21.3 30.7 34.0 34.1 32.5 |
alexnet  | IR           | 16.8 26.5 31.8 34.1 35.6 | 31.3 | 18.8 24.3 31.9 34.5 33.6 |
alexnet  | IR (with BN) | 18.4 30.1 34.4 39.2 39.9 | 34.9 | 21.3 33.0 36.5 39.2 38.7 | 36.9
alexnet  | DC           | 13.4 32.3 41.0 39.6 38.2 |      | 19.6 33.2 39.2 39.8 34.7 |
alexnet  | LA           | 18.7 32.7 38.1 42.3 42.4 | 38.1 | 18.7 32.7 38.2 40.3 39.5 | 37.5
vgg16    | IR           | 16.5 21.4 27.6 35.1 39.2 | 33.9 | 17.6 23.1 29.5 33.8 36.3 |
vgg16    | IR (with BN) | 13.2 18.7 27.3 39.8 50.4 | 42.1 | 17.3 22.9 27.3 39.3 45.8 | 40.1
vgg16    | DC           | 18.2 27.5 41.5 51.3 52.7 |      | 21.5 31.6 40.9 45.2 44.2 |
vgg16    | LA           | 14.3 23.4 28.3 44.5 57.6 | 46.6 | 20.1 25.9 31.9 44.0 50.0 | 41.9
resnet18 | IR           | 16.0 19.9 29.8 39.0 44.5 | 41.0 | 17.8 23.0 30.1 37.0 38.1 | 38.6
resnet18 | DC           | 16.4 17.2 28.7 44.3 49.1 |      | 16.4 22.5 30.5 40.4 41.8 |
resnet18 | LA           |  9.1 18.7 34.8 48.4 52.8 | 45.0 | 18.9 26.7 36.5 44.7 45.6 | 40.3
resnet50 | IR           | 15.3 18.8 24.9 40.6 54.0 | 46.5 | 18.1 22.3 29.7 42.1 45.5 | 41.6
resnet50 | DC           | 18.9 27.3 36.7 52.4 44.2 |      | 20.1 29.1 35.3 43.2 38.9 |
resnet50 | LA           | 10.2 23.3 39.3 49.0 60.2 | 49.4 | 10.3 26.4 39.9 47.2 50.1 | 42.4
"""


def _row(line: str) -> PaperRow:
    network, method, *cells = map(str.strip, line.split("|"))
    readouts, knn, places, places_knn = (tuple(map(float, cell.split())) for cell in cells)
    return PaperRow(
        network,
        method,
        imagenet=readouts,
        imagenet_knn=knn[0] if knn else None,
        places=places or None,
        places_knn=places_knn[0] if places_knn else None,
    )


ROWS = tuple(_row(line) for line in _TABLE.strip().splitlines())

# Networks of our own -> the paper's network that is most like them: five convolutions each.
CLOSEST = {"smallnet": "alexnet"}


def paper_rows(network: str) -> tuple[PaperRow, ...]:
    """The paper's rows for a network, or for the one in the paper that is closest to it."""
    name = CLOSEST.get(network, network)
    return tuple(row for row in ROWS if row.network == name)
