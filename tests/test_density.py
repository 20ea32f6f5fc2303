"""Densities against full sorts in NumPy, and what Figure 2 says of them."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from la_tf.analysis import density
from la_tf.analysis.part import Unavailable
from la_tf.evaluation.bank_density import DENSITY, densities, quantiles
from la_tf.runs.log import RunLog, read_log


def sorted_others(bank: np.ndarray) -> np.ndarray:
    """[N, N-1] similarities of every row to all other rows, falling; by a loop."""
    rows = []
    for i, row in enumerate(bank.astype(np.float64)):
        others = [other @ row for j, other in enumerate(bank.astype(np.float64)) if j != i]
        rows.append(sorted(others, reverse=True))
    return np.array(rows)


@pytest.mark.parametrize("local,background", [(5, (10, 40)), (1, (2, 2)), (30, (31, 74))])
def test_densities_equal_a_full_sort_without_the_row_itself(unit_rows, local, background):
    bank = unit_rows(300, 6)
    expected = sorted_others(bank)
    found = densities(bank, local=local, background=background)
    assert (found.local_count, found.background_ranks) == (local, background)
    first, last = background
    np.testing.assert_allclose(found.local, expected[:, :local].mean(1), atol=1e-6)
    np.testing.assert_allclose(found.background, expected[:, first - 1 : last].mean(1), atol=1e-6)


def test_on_few_images_the_papers_ranks_shrink_in_proportion(unit_rows):
    # 299 others: the background ends at 299 // 4 = 74 and begins at 1000 * 74 / 4096 = 18.07; the
    # local ones, 30 in the paper, end before that.
    bank = unit_rows(300, 6)
    expected = sorted_others(bank)
    found = densities(bank)
    assert (found.local_count, found.background_ranks) == (17, (18, 74))
    np.testing.assert_allclose(found.local, expected[:, :17].mean(1), atol=1e-6)
    np.testing.assert_allclose(found.background, expected[:, 17:74].mean(1), atol=1e-6)


def test_copies_of_a_row_count_as_others_and_the_row_does_not(unit_rows):
    bank = np.repeat(unit_rows(10, 6), 8, axis=0)  # each row has 7 copies
    expected = sorted_others(bank)
    found = densities(bank, local=4, background=(6, 9))
    np.testing.assert_allclose(found.local, 1, atol=1e-6)
    np.testing.assert_allclose(found.background, expected[:, 5:9].mean(1), atol=1e-6)


def test_a_large_bank_is_described_by_a_sample_of_its_rows(unit_rows, monkeypatch):
    monkeypatch.setattr(density, "MAX_ROWS", 40)
    bank = unit_rows(120, 6)
    every = densities(bank)
    found = density.bank_density("run", bank, seed=3).found
    rows = [int(np.abs(every.local - value).argmin()) for value in found.local]
    assert len(set(rows)) == 40 and rows == sorted(rows)
    np.testing.assert_allclose(found.background, every.background[rows], atol=1e-6)
    again, other = (density.bank_density("run", bank, seed).found.local for seed in (3, 4))
    assert (again == found.local).all() and (other != found.local).any()
    caption = density.density_part([density.bank_density("run", bank, 3)]).caption
    assert "of 120 images, for a sample of 40." in caption


def test_figure_2_draws_every_run_and_says_its_means(unit_rows):
    banks = {"one (IR)": unit_rows(200, 4), "two <LA>": unit_rows(150, 16)}
    part = density.density_part([density.bank_density(n, b, 0) for n, b in banks.items()])
    assert [plot.name for plot in part.plots] == ["density-local", "density-background"]
    for plot in part.plots:
        ElementTree.fromstring(plot.svg.encode())
        for name, bank in banks.items():
            mean = getattr(densities(bank), plot.name.removeprefix("density-")).mean()
            assert f"{name}: mean {mean:.3f}." in plot.alt
    # 200 images: 199 // 4 = 49, 1000 * 49 / 4096 = 11.96.
    assert "one (IR): the nearest 11, and ranks 12 to 49, of 200 images." in part.caption


def test_what_a_run_logged_at_the_end_of_the_warm_start_is_drawn_beside_its_end(
    unit_rows, tmp_path
):
    early, late = unit_rows(200, 4, 1), unit_rows(200, 16, 2)
    log = RunLog(tmp_path / "metrics.jsonl")
    log.write("train", 5, 1, loss=1.0)
    log.write(DENSITY, 7, 1, quantiles=quantiles(densities(early)))
    log.close()
    records = read_log(tmp_path / "metrics.jsonl")
    assert density.logged_density("run", records, step=7, num_examples=200) == []  # it is the end
    (logged,) = density.logged_density("run (end of IR)", records, step=8, num_examples=200)
    expected = sorted_others(early)
    for name, ranks in (("local", slice(11)), ("background", slice(11, 49))):
        values, found = expected[:, ranks].mean(1), getattr(logged.found, name)
        np.testing.assert_allclose(found, np.quantile(values, np.linspace(0, 1, 201)), atol=1e-5)
    part = density.density_part([logged, density.bank_density("run (LA)", late, 0)])
    assert "run (end of IR): the nearest 11, and ranks 12 to 49, of 200 images" in part.caption
    for plot in part.plots:
        assert plot.alt.index("run (end of IR): mean") < plot.alt.index("run (LA): mean")


def test_one_image_has_no_density():
    with pytest.raises(Unavailable, match="no neighbours"):
        density.bank_density("run", np.eye(1, 8, dtype=np.float32), 0)
