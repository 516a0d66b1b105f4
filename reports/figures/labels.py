"""Labels of a scatter plot, placed so that none covers another or a marker."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

__all__ = ["label_points"]

_FONT_SIZE = 8


def label_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Label each point at the nearest free place.

    Args:
        axes: with the markers drawn and the limits final.
        points: ``(x, y)`` in data coordinates by title.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    figure.draw_without_rendering()
    # All lengths are in points: the height of a line, and half a marker.
    height, half = 10.5, 4.5
    scale = 72 / figure.dpi
    frame = axes.get_window_extent()
    left_end, right_end = (end * scale for end in frame.intervalx)
    low_end, high_end = (end * scale for end in frame.intervaly)
    centres = {
        title: tuple(float(place) * scale for place in axes.transData.transform(point))
        for title, point in points.items()
    }
    taken = [(x - half, x + half, y - half, y + half) for x, y in centres.values()]
    for title in sorted(points, key=lambda name: -points[name][1]):
        x, y = centres[title]
        probe = axes.text(0, 0, title, fontsize=_FONT_SIZE)
        length = probe.get_window_extent().width * scale
        probe.remove()
        # Nearest first: beside the point, then further up and down on either side.
        offsets = [
            (start, sign * step * height / 3)
            for step in range(60)
            for sign in ((1,) if step == 0 else (1, -1))
            for start in (half + 2, -half - 2 - length)
        ]
        boxes = [
            (x + dx, x + dx + length, y + dy - height / 2, y + dy + height / 2)
            for dx, dy in offsets
        ]
        free = (
            index
            for index, (left, right, low, high) in enumerate(boxes)
            if left > left_end and right < right_end and low > low_end and high < high_end
            if not any(
                left < other[1] and other[0] < right and low < other[3] and other[2] < high
                for other in taken
            )
        )
        chosen = next(free, 0)
        dx, dy = offsets[chosen]
        taken.append(boxes[chosen])
        axes.annotate(
            title,
            points[title],
            xytext=(dx if dx > 0 else dx + length, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right",
            va="center",
            fontsize=_FONT_SIZE,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 4}
            if abs(dy) > height
            else None,
        )
