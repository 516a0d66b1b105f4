"""Pictures decoded again and compared with what they should show."""

import base64
import io
import itertools
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from skimage.color import rgb2lab

from reports.figures.charts import curve_charts, pareto_front
from reports.figures.curves import curves
from reports.figures.drawing import forest, scatter, svg_uri
from reports.figures.gallery import Gallery, lovi_key, picture_uri, read_gallery
from reports.figures.labels import label_points
from reports.figures.styles import method_styles
from reports.records.estimates import Estimate
from reports.records.reading import read_run
from reports.records.run import Method, Run


def decoded(uri: str | None) -> np.ndarray:
    assert uri is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return read_run(finished_run)


@pytest.fixture(scope="module")
def gallery(run: Run) -> Gallery:
    found = read_gallery(run)
    assert found is not None
    return found


@pytest.mark.parametrize("image", [0, 2])
def test_masked_pictures_lose_exactly_the_most_salient_pixels(
    image: int, gallery: Gallery, finished_run: Path
) -> None:
    part = gallery.masked(image)
    titles = [row.title for row in part.rows]
    row = part.rows[titles.index("Gradient")]
    saliency = np.load(finished_run / "gallery" / "maps-gradient.npz")["saliency"][image].ravel()
    original = np.load(finished_run / "data" / "d0" / "test_images.npy")[2 * image].reshape(64, 3)
    order = np.argsort(-saliency)
    for column, picture in zip(part.columns, row.pictures, strict=True):
        count = {0.1: 6, 0.5: 32, 0.9: 58}[column.fraction]
        assert (column.fewest, column.most, column.of) == (count, count, 64)
        gone = order[:count] if column.mode == "roar" else order[count:]
        expected = original.copy()
        expected[gone] = (128, 102, 76)  # the training mean 0.5, 0.4, 0.3 of 255
        assert np.abs(decoded(picture).reshape(64, 3).astype(int) - expected).max() <= 1


def test_maps_run_from_the_first_to_the_last_percentile(
    gallery: Gallery, finished_run: Path
) -> None:
    rows = {row.title: row for row in gallery.side_by_side()}
    assert list(rows)[:2] == ["Image", "True object"]
    saliency = np.load(finished_run / "gallery" / "maps-centre.npz")["saliency"][1]
    low, high = np.percentile(saliency, [1, 99])
    expected = mpl.colormaps["magma"](np.clip((saliency - low) / (high - low), 0, 1))[..., :3]
    shown = decoded(rows["Centre disk"].pictures[1])
    # The table of 17 colours is within 0.0081 of matplotlib's, which itself rounds to 256 entries.
    assert np.abs(shown / 255 - expected).max() < 0.017


def test_constant_and_one_pixel_maps_are_shown(gallery: Gallery) -> None:
    maps = gallery.maps["random"]
    flat = np.full_like(maps.saliency, 3.0)
    flat[1, 2, 3] = 4.0
    changed = Gallery(
        **{**vars(gallery), "maps": {"random": maps.__class__(**{**vars(maps), "saliency": flat})}}
    )
    rows = {row.title: row for row in changed.side_by_side()}
    constant, one = (decoded(rows["Random"].pictures[i]) for i in (0, 1))
    assert np.unique(constant.reshape(-1, 3), axis=0).tolist() == [[183, 55, 121]]  # magma(0.5)
    assert one[2, 3].tolist() == [252, 253, 191]
    assert one[0, 0].tolist() == [0, 0, 4]


def test_an_image_that_a_method_has_no_map_of_stays_empty(gallery: Gallery) -> None:
    maps = gallery.maps["gradient"]
    fewer = maps.__class__(**{**vars(maps), "index": maps.index + np.array([0, 1, 0])})
    changed = Gallery(**{**vars(gallery), "maps": {**gallery.maps, "gradient": fewer}})
    rows = {row.title: row for row in changed.side_by_side()}
    assert [picture is None for picture in rows["Gradient"].pictures] == [False, True, False]


def test_lovi_pictures_are_shared_by_methods_with_the_same_scales(gallery: Gallery) -> None:
    (image, smoe) = gallery.lovi_rows()
    assert (image.title, smoe.title) == ("Image", "SMOE Scale, linear weights")
    assert decoded(smoe.pictures[0]).shape == (8, 8, 3)
    # One scale alone: 300, 200, 100 and 0 degrees of hue.
    assert lovi_key(gallery.scales) == ["#ff00ff", "#00aaff", "#55ff00", "#ff0000"]


def test_large_pictures_are_shrunk_and_keep_their_proportions() -> None:
    shown = decoded(picture_uri(np.full((448, 224, 3), 200, np.uint8)))
    assert shown.shape == (128, 64, 3)
    assert np.abs(shown.astype(int) - 200).max() <= 3


def test_curves_draw_the_means_and_their_intervals(run: Run) -> None:
    records = run.records[run.records["metric"] == "accuracy"]
    styles = method_styles(run.methods.values())
    figure = curves(
        records,
        [*run.in_group("control"), run.methods["gradient"]],
        run.modes,
        styles=styles,
        unmasked=run.unmasked,
        chance=run.chance,
        limits=(20.0, 80.0),
    )
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.lines}
    assert {"Gradient", "Random", "Centre disk", "unmasked", "chance"} <= set(lines)
    by_hand = [75 - 22 * fraction + 0.5 for fraction in (0.1, 0.5, 0.9)]
    assert lines["Gradient"].get_xdata().tolist() == pytest.approx([10, 50, 90])
    assert lines["Gradient"].get_ydata().tolist() == pytest.approx(by_hand)
    assert lines["Gradient"].get_color() == styles["gradient"].colour
    assert lines["unmasked"].get_ydata()[0] == pytest.approx(75.5)
    assert lines["chance"].get_ydata()[0] == 25
    band = left.collections[-1].get_paths()[0].get_extents()
    # Student's t of one degree of freedom times the deviation of the mean, 0.5 %.
    assert band.y0 == pytest.approx(by_hand[-1] - 12.7062 * 0.5, abs=1e-3)
    assert right.get_title().startswith("KAR")
    # No marker at an end is cut by the frame.
    assert left.get_xlim()[0] < 0
    assert left.get_xlim()[1] > 100
    assert len(left.get_yticks()) >= 3


@pytest.mark.parametrize("small", [False, True])
def test_the_axis_ends_at_the_greatest_share_where_that_is_small(run: Run, small: bool) -> None:
    records = run.records[run.records["metric"] == "accuracy"].copy()
    records["fraction"] = records["fraction"].map({0.1: 0.03, 0.5: 0.05, 0.9: 0.1})
    figure = curves(
        records,
        [run.methods["gradient"]],
        ["roar"],
        styles=method_styles(run.methods.values()),
        unmasked=run.unmasked,
        chance=run.chance,
        limits=(20.0, 80.0),
        small=small,
    )
    (axes,) = figure.axes
    assert axes.get_xlim() == pytest.approx((-0.4, 10.4))
    ticks = [0, 5, 10] if small else [0, 3, 5, 10]
    assert axes.get_xticks().tolist() == pytest.approx(ticks)


def test_few_methods_share_a_figure_and_many_have_one_each(run: Run) -> None:
    found = curve_charts(run)
    assert found is not None
    assert found.whole is not None
    assert [method.name for method in found.keyed] == list(run.methods)
    # Twenty methods more, all of them copies of one.
    rows = run.records[run.records["method"] == "gradient"]
    names = [f"copy{number}" for number in range(20)]
    records = pd.concat([run.records, *(rows.assign(method=name) for name in names)])
    copies = {name: replace(run.methods["gradient"], name=name, title=name) for name in names}
    many = replace(run, methods={**run.methods, **copies})
    many.__dict__["records"] = records
    found = curve_charts(many)
    assert found is not None
    assert found.whole is None
    drawn = [method.name for method, _ in found.multiples]
    assert drawn == ["smoe-linear", "gradient", *names]
    assert [method.name for method in found.keyed] == ["random", "centre"]
    assert all(figure.uri.startswith("data:image/svg+xml;base64,") for _, figure in found.multiples)


def test_no_two_methods_look_alike_and_no_method_like_a_control() -> None:
    groups = ["control", "smoe"] * 9 + ["gradient"] * 45
    methods = [Method(f"m{n}", f"m{n}", "", {}, group) for n, group in enumerate(groups)]
    styles = method_styles(methods)
    looks = [(look.colour, look.marker) for look in styles.values()]
    assert len(set(looks)) == len(methods)
    of_controls = {look.marker for look in styles.values() if look.control}
    assert not of_controls & {look.marker for look in styles.values() if not look.control}
    for look in styles.values():
        red, green, blue = (int(look.colour[place : place + 2], 16) for place in (1, 3, 5))
        assert (red == green == blue) == look.control


def test_colours_of_neighbours_stay_apart_under_deuteranopia() -> None:
    """Machado, Oliveira and Fernandes 2009, Table 1: severity 1, in linear light."""
    seen = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    methods = [Method(f"m{n}", f"m{n}", "", {}, "smoe") for n in range(7)]
    points = []
    for look in method_styles(methods).values():
        value = np.array([int(look.colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        points.append(rgb2lab(np.clip(_encoded(seen @ linear), 0, 1)[None, None])[0, 0])
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(points, 2)]
    # A difference of about 2 is the least that an eye sees.
    assert min(apart) > 8


def _encoded(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_forest_marks_one_seed_by_a_hollow_point(run: Run) -> None:
    estimates = {
        "gradient": Estimate(-0.2, (-0.3, -0.1), (0, 1), ("a", "b")),
        "smoe-linear": Estimate(0.4, None, (0,), ("c",)),
    }
    (axes,) = forest(
        {"random": estimates},
        run.methods,
        order=["smoe-linear", "gradient"],
        score="KAR",
        unmoved={"random": -0.15},
    ).axes
    assert axes.get_xlabel() == "difference of KAR"
    upright = [line for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert [line.get_xdata()[0] for line in upright] == [0, -0.15]
    titles = [label.get_text() for label in axes.get_yticklabels()]
    assert titles == ["Gradient, 2 seeds", "SMOE Scale, linear weights, 1 seed"]
    styles = method_styles(run.methods.values())
    markers = {styles[name].marker for name in estimates}
    assert len(markers) == 2
    points = [line for line in axes.lines if line.get_marker() in markers]
    assert [point.get_xdata()[0] for point in points] == [-0.2, 0.4]
    assert points[1].get_markerfacecolor() == "white"
    assert points[0].get_markerfacecolor() != "white"


def test_forest_has_the_order_that_is_given(run: Run) -> None:
    same = Estimate(0.0, None, (0,), ())
    for names in (["gradient", "smoe-linear", "centre"], ["centre", "smoe-linear", "gradient"]):
        estimates = {"random": dict.fromkeys(sorted(names), same)}
        figure = forest(estimates, run.methods, order=names, score="KAR", unmoved={})
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == [run.methods[name].title for name in reversed(names)]


def test_a_scatter_shows_unmasked_chance_and_the_front(run: Run) -> None:
    points = {"gradient": (1.0, 30.0), "smoe-linear": (2.0, 20.0), "random": (3.0, 40.0)}
    front = pareto_front(points.values())
    figure = scatter(
        points,
        run.methods,
        title="",
        x_label="",
        y_label="",
        x_lines={"chance": 25.0},
        y_lines={"unmasked": 75.0, "chance": 25.0},
        front=front,
    )
    (axes,) = figure.axes
    across = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    upright = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert across == [75, 25]
    assert upright == [25]
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert list(zip(steps.get_xdata(), steps.get_ydata(), strict=True)) == [(1, 30), (3, 40)]


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [tuple(point) for point in np.random.default_rng(0).random((60, 2)).tolist()]
    points += points[:3]
    unbeaten = {
        (x, y)
        for x, y in points
        if not any((a < x and b >= y) or (a <= x and b > y) for a, b in points)
    }
    assert pareto_front(points) == sorted(unbeaten)
    assert pareto_front([]) == []


def test_labels_of_crowded_points_do_not_overlap() -> None:
    rng = np.random.default_rng(3)
    figure = Figure(figsize=(8.8, 5.4))
    axes = figure.subplots()
    points = {
        f"Method {i}, SmoothGrad": (x, y) for i, (x, y) in enumerate(rng.normal(size=(14, 2)))
    }
    for x, y in points.values():
        axes.plot(x, y, "o", markersize=6)
    label_points(axes, points)
    figure.draw_without_rendering()
    # Of the words alone: an annotation's own extent holds its arrow too.
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == 14
    overlaps = [
        (i, j) for i in range(14) for j in range(i) if boxes[i].padded(-1).overlaps(boxes[j])
    ]
    assert overlaps == []


def test_the_same_figure_gives_the_same_bytes() -> None:
    def drawn() -> str:
        figure = Figure()
        figure.subplots().plot([0, 1], [1, 0], "o-")
        return svg_uri(figure)

    assert drawn() == drawn()
