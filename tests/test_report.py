"""report.html and tools/analyze.py on runs of seconds: what it holds, what it lacks, its errors."""

import base64
import dataclasses
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import types
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from la_tf.analysis import extremes, report
from la_tf.analysis.report import write_report
from la_tf.config import Config, DataConfig, NetworkConfig, ReportConfig, RunConfig, ScheduleConfig
from la_tf.data.base import DataError
from la_tf.data.digits import DigitsSource
from la_tf.data.folder import FolderSource
from la_tf.errors import RunError
from la_tf.results import run_facts
from la_tf.results.evaluations import Evaluation, write_evaluation
from la_tf.runs.log import read_log
from la_tf.trainer import train

pytestmark = pytest.mark.slow

# What a folder may be called; none of it may become markup.
CLASSES = [
    f"{{{{ 7 * 7 }}}}<script>'\"><img src=x onerror=alert({i})>&amp;$\\x$" for i in range(10)
]
URLS = ("src", "href", "action", "data", "poster", "srcset", "background", "formaction")
VOID = ("meta", "img", "link", "br", "hr", "input")


class Page(html.parser.HTMLParser):
    """Elements of a page in their order: (tag, attributes), and all its text."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.elements, self.open, pieces = [], [], []
        self.handle_data = pieces.append
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open
        self.text = " ".join(" ".join(pieces).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str, section: str | None = None) -> list[dict]:
        """Attributes of the elements of a tag, on the page or in the section of this id."""
        found, at = [], None
        for name, attributes in self.elements:
            at = attributes.get("id") if name == "section" else at
            if name == tag and section in (None, at):
                found.append(attributes)
        return found


def write_digits(folder: pathlib.Path, rows: range, labelled: bool) -> None:
    digits = DigitsSource()
    for row in rows:
        where = folder / CLASSES[digits.labels[row]] if labelled else folder
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{row:04d}<i>$5 \\x$.png").write_bytes(digits.read(row))


def trained(run_dir: pathlib.Path, data: pathlib.Path, baselines: bool) -> pathlib.Path:
    config = Config(
        data=DataConfig(data=str(data), image_size=16, batch_size=50),
        network=NetworkConfig(network="smallnet", dim=16),
        schedule=ScheduleConfig(epochs=2, ir_epochs=1),
        report=ReportConfig(log_every_steps=2, baselines=baselines),
        run=RunConfig(run_dir=str(run_dir)),
    )
    train(config, say=lambda sentence: None)
    return run_dir


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("labelled")
    write_digits(folder / "images" / "train", range(200), labelled=True)
    write_digits(folder / "images" / "val", range(200, 260), labelled=True)
    return trained(folder / "run <b>", folder / "images", baselines=True)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    write_digits(folder / "images", range(100), labelled=False)
    return trained(folder / "run", folder / "images", baselines=False)


@pytest.fixture(scope="module")
def page(labelled, unlabelled) -> Page:
    return Page(write_report(str(labelled), [str(unlabelled)], say=lambda sentence: None))


@pytest.fixture(scope="module")
def plain_page(unlabelled) -> Page:
    return Page(write_report(str(unlabelled), say=lambda sentence: None))


def test_the_file_needs_no_other_and_runs_nothing(page):
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "svg")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in URLS:
                assert value.startswith(("data:image/", "#")), f"<{tag} {name}={value[:80]}>"
    assert not re.search(r"url\(|@import", page.source)
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none';")
    assert len(page.source) < 4_000_000


def test_names_of_classes_and_runs_are_text(page):
    shown = [name for name in CLASSES if f"True class {name}, predicted" in page.text]
    mapped = [image["alt"] for image in page.all("img") if image["alt"].startswith("Classes of")]
    assert shown  # how many depends on what the network tells apart
    assert sum(f"{name} (" in alt for name in CLASSES for alt in mapped) == 6
    assert page.text.count("run <b>") >= 3  # heading and caption of Figure 2
    assert "run <b> (end of IR): the nearest" in page.text
    assert {"i", "b"} & {tag for tag, attributes in page.elements if attributes} == set()
    assert all(image["src"] != "x" for image in page.all("img"))


def test_every_option_is_there_with_its_value_and_meaning(page):
    for section in dataclasses.fields(Config):
        for option in dataclasses.fields(section.type):
            assert option.name in page.text
            assert " ".join(option.metadata["help"].split()) in page.text
            assert option.metadata["section"] in page.text
    for shown in ("image_size 16 ", "network smallnet ", "epochs 2 ", "jitter 0.4 ", "flip yes "):
        assert shown in page.text, shown


def test_headings_links_and_pictures_serve_those_who_cannot_see(page):
    assert len(page.all("h1")) == 1
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    links = [link["href"].removeprefix("#") for link in page.all("a")]
    assert len(links) >= 7 and set(links) <= set(identifiers)
    assert all(image["alt"].strip() for image in page.all("img"))
    assert page.elements[0] == ("html", {"lang": "en"})


def test_summary_and_table_are_those_of_the_logs(page, labelled):
    records = read_log(labelled / "metrics.jsonl")
    last = [r for r in records if r["kind"] == "knn"][-1]
    assert f"Held-out kNN {last['knn200']:.1%} with K = 200, {last['knn1']:.1%}" in page.text
    assert "Epochs 2 of 2 8 steps of 50 images" in page.text
    milestones = [r for r in records if r["kind"] == "milestone"]
    assert len(milestones) == 4
    for row in milestones:
        cells = f"{row['name']} {100 * row['knn200']:.1f} {100 * row['knn1']:.1f}"
        assert cells in page.text, cells
    environment = json.loads((labelled / "environment.json").read_text())[0]
    assert environment["packages"]["tensorflow"] in page.text


def test_every_figure_is_in_the_page_and_a_file(page, labelled):
    files = sorted(file.name for file in (labelled / "figures").iterdir())
    curves = "clusters close data-wait inertia knn learning-rate loss neighbors spread throughput"
    drawings = [f"curves-{name}.svg" for name in curves.split()]
    drawings += ["density-background.svg", "density-local.svg", "mds-high.svg", "mds-low.svg"]
    drawings += ["photos.svg"]
    assert {*drawings, "neighbours.png", "clusters.png", "extremes.png"} <= set(files)
    assert not [name for name in files if name.startswith(("curves-nmi", "curves-plateau"))]
    for name in drawings:
        ElementTree.parse(labelled / "figures" / name)
    images = [image["src"] for image in page.all("img")]
    assert sum(src.startswith("data:image/svg+xml") for src in images) == len(drawings)
    (views,) = (image for image in page.all("img") if image["alt"].startswith("Rows of"))
    sheet = Image.open(io.BytesIO(base64.b64decode(views["src"].partition(",")[2])))
    assert sheet.size == Image.open(labelled / "figures" / "augmented_views.png").size
    tiles = 9 * page.text.count("True class")  # queries, and eight neighbours each
    assert len(page.all("img", "neighbours")) == tiles
    # Two of each pair; the farthest images, and five neighbours each.
    assert len(page.all("img", "extremes")) == 2 * extremes.PAIRS + 6 * extremes.OUTLIERS
    tiles = sum(len(page.all("img", key)) for key in ("neighbours", "clusters", "extremes"))
    assert sum(src.startswith("data:image/png") for src in images) == tiles
    assert not list(labelled.glob("*.partial"))


def test_results_stand_beside_those_of_the_paper(unlabelled, tmp_path):
    run = shutil.copytree(unlabelled, tmp_path / "run")
    accuracy, settings = {"KNN": 0.4321}, {"gallery": "memory bank", "k": [200, 1]}
    evaluation = Evaluation(
        "knn", "<u>pets", "f", "LA", False, "alexnet", 8, 2.0, accuracy, settings, 1.0, {}
    )
    write_evaluation(run, evaluation)
    page = Page(write_report(str(run), say=lambda sentence: None))
    assert " LA - - - - - 43.2 " in page.text
    assert "<u>pets: top-1 accuracy in percent" in page.text
    assert re.search(r"LA,? [^-]*paper\S* 18\.7 32\.7 38\.1 42\.3 42\.4 38\.1 ", page.text)


def test_without_labels_the_report_says_what_is_missing(plain_page, unlabelled):
    page = plain_page
    assert "Labelled held-out images are needed to choose classes; none exist." in page.text
    assert "Held-out kNN not measured it needs labelled held-out images" in page.text
    assert "A sample of training images" in page.text and "<i>$5 \\x$.png" in page.text
    for section in ("photos", "clusters", "extremes"):
        assert page.all("img", section)
    assert "tools/evaluate.py does that" in page.text
    assert not list((unlabelled / "figures").glob("mds*"))
    assert not list((unlabelled / "figures").glob("curves-knn*"))


def test_an_unfinished_run_with_damaged_logs_says_so(unlabelled, tmp_path):
    run = shutil.copytree(unlabelled, tmp_path / "run")
    stored = json.loads((run / "config.json").read_text())
    stored["config"]["schedule"] |= {"epochs": 7}
    (run / "config.json").write_text(json.dumps(stored))
    (run / "environment.json").unlink()
    (run / "figures" / "augmented_views.png").write_bytes(b"GIF89a")
    (run / "metrics.jsonl").unlink()
    (run / "evaluation").mkdir()
    (run / "evaluation" / "pets-knn-LA.json").write_text("{")
    text = Page(write_report(str(run), say=lambda sentence: None)).text
    assert "This run is not finished: 2 of 7 epochs are done." in text
    assert "metrics.jsonl cannot be read" in text
    assert "environment.json cannot be read" in text
    assert "There is no figures/augmented_views.png that can be read" in text
    assert "remove it and evaluate again" in text


def test_an_image_that_turns_out_damaged_is_named_in_its_place(unlabelled, tmp_path, monkeypatch):
    # Of large data no image is decoded before it is used: the source is given unchecked.
    run, images = shutil.copytree(unlabelled, tmp_path / "run"), tmp_path / "images"
    shutil.copytree(unlabelled.parent / "images", images)
    for file in images.iterdir():
        file.write_bytes(file.read_bytes()[:60])
    monkeypatch.setattr(report, "open_images", lambda *_: (FolderSource(str(images)), None))
    text = Page(write_report(str(run), say=lambda sentence: None)).text
    assert "An image cannot be read" in text


def test_doubts_of_a_runs_health_stand_above_its_numbers():
    config = Config(schedule=ScheduleConfig(epochs=2))
    run = types.SimpleNamespace(epoch=2.0, step=27, config=config)
    healthy = {"kind": "train", "step": 9, "steps": 9, "loss": 1.0, "spread": 0.08}
    healthy["empty_close"] = 0.1
    assert run_facts.warnings(run, [healthy]) == []
    sick = healthy | {"step": 18, "spread": 0.001, "empty_close": 0.9}
    collapsed, empty = run_facts.warnings(run, [healthy, sick, sick | {"step": 27}])
    assert collapsed.startswith("step 18: the embeddings have nearly collapsed")
    assert empty.startswith("step 18: 90% of the images have no close neighbour")
    exported = {"kind": "exported", "step": 27, "similarity": 0.97}
    (constant,) = run_facts.warnings(run, [healthy, exported])
    mended = exported | {"similarity": 0.1}
    assert run_facts.warnings(run, [healthy, exported, mended]) == []  # the newest counts
    assert constant.startswith("step 27: the embeddings of the exported network are nearly constan")
    (ahead,) = run_facts.warnings(run, [healthy | {"step": 1030}])
    assert "reaches step 1,030, but the newest checkpoint is of step 27" in ahead


def test_equal_environments_of_starts_that_follow_each_other_are_joined(tmp_path):
    one, two = {"python": "3.10", "packages": {"numpy": "1"}, "gpus": []}, {"python": "3.11"}
    (tmp_path / "environment.json").write_text(json.dumps([one, one, two, one]))
    found = run_facts.environments(types.SimpleNamespace(path=tmp_path))
    flat = {"python": "3.10", "numpy": "1", "gpus": "none"}
    assert list(found.items()) == [
        ("Starts 1 to 2", flat),
        ("Start 3", {"python": "3.11"}),
        ("Start 4", flat),
    ]


def test_images_that_have_moved_are_found_where_data_says(unlabelled, tmp_path):
    run, images = shutil.copytree(unlabelled, tmp_path / "run"), unlabelled.parent / "images"
    moved = images.rename(tmp_path / "moved")
    try:
        text = Page(write_report(str(run))).text
        assert f"{images} does not exist" in text and "as --data" in text
        assert "Local density" in Page(run / "report.html").source  # an alt text
        found = Page(write_report(str(run), data=str(moved))).text
        assert "in the memory bank of 100 images" in found and "<i>$5 \\x$.png" in found
        with pytest.raises(DataError, match="does not exist"):
            write_report(str(run), data=str(images))
    finally:
        moved.rename(images)


def test_other_images_are_searched_among_themselves(labelled, unlabelled, tmp_path):
    run = shutil.copytree(unlabelled, tmp_path / "run")
    page = Page(write_report(str(run), data=str(labelled.parent / "images")))
    assert "in centre crops of 200 training images" in page.text
    assert "Of centre crops of 60 held-out images" in page.text
    assert "The clusters are of the images of the run, which these are not." in page.text
    assert page.all("img", "photos") and page.all("img", "extremes")
    assert sum(image["alt"].startswith("Classes of high") for image in page.all("img")) == 1


def test_a_report_that_cannot_be_written_leaves_the_old_one(unlabelled, tmp_path):
    run = shutil.copytree(unlabelled, tmp_path / "run")
    shutil.rmtree(run / "figures", ignore_errors=True)
    (run / "figures").write_text("in the way")
    (run / "report.html").write_text("the old one")
    with pytest.raises(RunError, match="cannot be written into"):
        write_report(str(run), say=lambda sentence: None)
    assert (run / "report.html").read_text() == "the old one"


def test_the_same_run_gives_the_same_report(plain_page, unlabelled):
    assert (
        Page(write_report(str(unlabelled), say=lambda sentence: None)).source == plain_page.source
    )


def test_the_tool_in_a_process_of_its_own(unlabelled, tmp_path, run_tool):
    run = shutil.copytree(unlabelled, tmp_path / "run")
    shutil.rmtree(run / "figures", ignore_errors=True)
    flags = (f"--run_dir={run}", f"--run_dir={unlabelled}")
    code, out, err = run_tool("analyze", *flags, fresh=True)
    assert (code, err) == (0, "")
    assert re.search(rf"report: {re.escape(str(run))}/report.html \(\d+ s\)", out)
    # Both runs are called run: their paths tell them apart.
    assert f"{unlabelled} (LA): the nearest" in Page(run / "report.html").text
    assert (run / "figures" / "density-local.svg").exists()


def test_errors_of_the_tool_are_one_sentence(tmp_path, run_tool):
    code, out, err = run_tool("analyze", f"--run_dir={tmp_path / 'nowhere'}")
    assert (code, out) == (1, "")
    assert err == (
        f"error: {tmp_path}/nowhere holds no run: name a run directory that tools/train.py made.\n"
    )


def test_a_run_that_cannot_be_opened_is_named(unlabelled, tmp_path):
    shutil.copy(unlabelled / "config.json", tmp_path)
    with pytest.raises(RunError, match="holds no checkpoint"):
        write_report(str(tmp_path))
    with pytest.raises(RunError, match="nowhere holds no run"):
        write_report(str(unlabelled), others=[str(tmp_path / "nowhere")])


BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
# Loads the report at several widths and says what is wider than the page.
FRAMES = """<body><script>
const said = [];
let left = 2;
for (const width of [390, 1280]) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 800px; border: 0`;
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement;
    const broken = [...page.images].filter((image) => !image.naturalWidth).length;
    said.push(`${root.clientWidth}: ${root.scrollWidth} wide, ${broken} broken`);
    if (!--left) document.title = said.sort().join("; ");
  };
  frame.src = "REPORT";
  document.body.append(frame);
}
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome found")
def test_in_a_browser_nothing_is_wider_than_a_telephone(page, labelled, tmp_path):
    del page  # has written the report
    frames = tmp_path / "frames.html"
    frames.write_text(FRAMES.replace("REPORT", (labelled / "report.html").as_uri()))
    flags = "--headless=new --no-sandbox --hide-scrollbars --allow-file-access-from-files"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    shown = subprocess.run(
        [BROWSER, *flags.split(), profile, "--virtual-time-budget=9000", "--dump-dom", frames],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    (title,) = re.findall("<title>(.*?)</title>", shown)
    assert title == "1280: 1280 wide, 0 broken; 390: 390 wide, 0 broken"


def test_training_ends_by_writing_it(trained_run):
    page = Page(trained_run / "report.html")
    assert "smallnet" in page.source and page.all("img")
