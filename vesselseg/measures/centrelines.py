"""Centrelines: a mask's skeleton, cut into branches, pruned and joined; what is measured on them.

::

    mask -> skeleton -> branches between branch points and ends -> pruned and joined

They are the same for a mask, its mirror image and its turns by 90 degrees, if the mask is first
brought into one of its eight orientations. Lengths come from smoothed centrelines and widths from
areas, so that other angles change little.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = "NDArray[np.bool_]"
Points: TypeAlias = "NDArray[np.float64]"  # (N, 2): rows and columns in pixels

_SMOOTHING = 2.0  # pixels; the standard deviation that a centreline is smoothed with
_RAY_STEP = 0.25  # pixels
_CANVAS = 1500  # pixels; the diameter of the field of view where the dimension is computed
_REACH = np.geomspace(1 / 180, 1 / 20, 17)  # of the dilations, in diameters of the field of view


def canonical(mask: Mask, fov: Mask) -> tuple[Mask, Mask, Callable[[Points], Points]]:
    """Of the eight orientations of mask and field of view, the one whose bytes come first.

    The function tells where points of the result are in the mask as it was.
    """

    def turn(image: Mask, transposed: bool, *flipped: bool) -> Mask:
        turned = image.T if transposed else image
        rows, columns = (slice(None, None, -1 if is_flipped else 1) for is_flipped in flipped)
        return np.ascontiguousarray(turned[rows, columns])

    def content(orientation: tuple[bool, ...]) -> tuple[tuple[int, ...], bytes, bytes]:
        vessels, inside = turn(mask, *orientation), turn(fov, *orientation)
        return vessels.shape, np.packbits(vessels).tobytes(), np.packbits(inside).tobytes()

    transposed, *flipped = first = min(itertools.product((False, True), repeat=3), key=content)
    turned = turn(mask, *first)

    def undo(points: Points) -> Points:
        original = np.where(flipped, np.array(turned.shape) - 1 - points, points)
        return original[:, ::-1] if transposed else original

    return turned, turn(fov, *first), undo


@dataclass(eq=False)
class Branch:
    """A centreline between two nodes; `points` has its pixels in order, the nodes' included."""

    nodes: tuple[int, int]
    points: Points
    radius: NDArray[np.float64]  # at each point, the distance to the background
    free: tuple[bool, bool] = (False, False)  # which ends are free
    extension: float = 0.0  # of the free ends
    area: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # at each point

    @cached_property
    def line(self) -> Points:
        """The smoothed centreline, its ends held."""
        from scipy.ndimage import gaussian_filter1d

        count = min(len(self.points) - 1, int(4 * _SMOOTHING))
        padded = np.pad(self.points, ((count, count), (0, 0)), "reflect", reflect_type="odd")
        line = gaussian_filter1d(padded, _SMOOTHING, axis=0)[count : count + len(self.points)]
        line[0], line[-1] = self.points[0], self.points[-1]
        return np.asarray(line)

    @cached_property
    def along(self) -> NDArray[np.float64]:
        """Distance of each point from the first, along the smoothed centreline."""
        return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(self.line, axis=0).T))])

    @property
    def arc(self) -> float:
        """Length of the smoothed centreline, in pixels."""
        return float(self.along[-1])

    @property
    def chord(self) -> float:
        """Distance between both ends, in pixels."""
        return float(np.hypot(*(self.points[-1] - self.points[0])))

    @property
    def tortuosity(self) -> float:
        """Arc over chord; NaN for a closed loop."""
        return max(self.arc / self.chord, 1.0) if self.chord > 0 else np.nan

    @cached_property
    def widths(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Width at each point that is clear of both ends, and the length it stands for."""
        from scipy.ndimage import gaussian_filter1d

        step = np.convolve(np.diff(self.along), [0.5, 0.5])  # half of the way to each neighbour
        width = gaussian_filter1d(self.area, _SMOOTHING) / gaussian_filter1d(step, _SMOOTHING)
        clear = (self.along > self.radius[0] + _SMOOTHING) & (
            self.along < self.arc - self.radius[-1] - _SMOOTHING
        )
        return width[clear], step[clear]

    @property
    def reverse(self) -> Branch:
        """The branch from its other end."""
        return Branch(self.nodes[::-1], self.points[::-1], self.radius[::-1])


def find_branches(vessels: Mask) -> list[Branch]:
    """The centrelines of a mask, pruned and joined, with all that is measured on them."""
    from scipy.ndimage import distance_transform_edt

    radius = distance_transform_edt(np.pad(vessels, 1))[1:-1, 1:-1]
    # Spurs go before branch points are merged, which would move the points that they start at.
    branches = _prune(_join(_merge_nodes(_prune(list(_trace(vessels, radius))))))
    if not branches:
        return []
    degrees = _count_ends(branches)
    pixels = np.zeros_like(vessels)
    for branch in branches:
        pixels[_to_index(branch.points)] = True
        branch.free = (degrees[branch.nodes[0]] == 1, degrees[branch.nodes[1]] == 1)
        branch.extension = sum(
            _extension(each, vessels)
            for each, is_free in zip((branch, branch.reverse), branch.free, strict=True)
            if is_free
        )
    # Each pixel of the mask belongs to the nearest pixel of the skeleton.
    nearest = distance_transform_edt(~pixels, return_distances=False, return_indices=True)
    owner = np.ravel_multi_index(tuple(nearest[:, vessels]), vessels.shape)
    area = np.bincount(owner, minlength=vessels.size).reshape(vessels.shape)
    for branch in branches:
        branch.area = area[_to_index(branch.points)].astype(np.float64)
    return branches


def _trace(vessels: Mask, radius: NDArray[np.float64]) -> Iterator[Branch]:
    """The branches of a mask's skeleton, cut at every pixel with more than two neighbours."""
    import skan
    from scipy.ndimage import convolve
    from skimage.morphology import skeletonize

    thin = np.pad(skeletonize(vessels), 1)
    neighbours = convolve(thin.astype(np.uint8), np.ones((3, 3), np.uint8)) - 1
    if not neighbours[thin].any():
        return  # pixels alone are no centrelines, and skan wants at least one
    graph = skan.Skeleton(thin)
    for number in range(graph.n_paths):
        nodes = graph.path(number)
        points = graph.path_coordinates(number) - 1.0
        yield Branch((int(nodes[0]), int(nodes[-1])), points, radius[_to_index(points)])


def _to_index(points: Points) -> tuple[NDArray[np.int64], ...]:
    """Points as an index of the pixels that they lie in."""
    return tuple(np.rint(points).astype(np.int64).T)


def _count_ends(branches: Iterable[Branch]) -> Counter[int]:
    """How many branches end at each node."""
    return Counter(node for branch in branches for node in branch.nodes)


def find_points(branches: list[Branch], fov: Mask) -> tuple[Points, Points]:
    """Where three or more branches meet, and where one ends inside the field of view.

    What ends at the border of the field of view, which cuts it, is left out.
    """
    from scipy.ndimage import distance_transform_edt

    degrees = _count_ends(branches)
    to_border = distance_transform_edt(np.pad(fov, 1))[1:-1, 1:-1]
    branch_points, end_points = {}, []
    for branch in branches:
        for end, node in zip((0, -1), branch.nodes, strict=True):
            point, radius = branch.points[end], branch.radius[end]
            if degrees[node] > 2:
                branch_points[node] = point
            elif branch.free[end] and to_border[_to_index(point)] > 2 * radius + 1:
                end_points.append(point)
    return np.reshape([*branch_points.values()], (-1, 2)), np.reshape(end_points, (-1, 2))


def _merge_nodes(branches: list[Branch]) -> list[Branch]:
    """Make one of branch points that are closer than the vessel is wide there."""
    from scipy.cluster.hierarchy import DisjointSet

    degrees = _count_ends(branches)
    group = DisjointSet(degrees)
    long = []
    for branch in branches:
        first, last = branch.nodes
        is_inner = degrees[first] > 2 and degrees[last] > 2
        if is_inner and branch.arc < 2 * branch.radius[[0, -1]].max():
            group.merge(first, last)
        else:
            long.append(branch)
    places: dict[int, list[Points]] = {}
    for branch in branches:
        for node, point in zip(branch.nodes, branch.points[[0, -1]], strict=True):
            places.setdefault(group[node], []).append(point)
    merged = []
    for branch in long:
        nodes = (group[branch.nodes[0]], group[branch.nodes[1]])
        points, radius = branch.points, branch.radius
        for end, node in zip((0, -1), nodes, strict=True):
            centre = np.unique(places[node], axis=0).mean(axis=0)
            if degrees[branch.nodes[end]] > 2 and not np.array_equal(centre, points[end]):
                at = 0 if end == 0 else len(points)
                points = np.insert(points, at, centre, axis=0)
                radius = np.insert(radius, at, radius[end])
        merged.append(Branch(nodes, points, radius))
    return merged


def _prune(branches: list[Branch]) -> list[Branch]:
    """The branches without spurs, joined where those met them.

    A spur has a free end and is no longer than the vessel is wide where it starts, and a pixel.
    """
    degrees = _count_ends(branches)

    def is_spur(branch: Branch) -> bool:
        free = [degrees[node] == 1 for node in branch.nodes]
        if not any(free):
            return False
        radius = branch.radius.max() if all(free) else branch.radius[-free.index(False)]
        return bool(branch.arc < 2 * radius + 1)

    kept = [branch for branch in branches if not is_spur(branch)]
    return branches if len(kept) == len(branches) else _prune(_join(kept))


def _join(branches: list[Branch]) -> list[Branch]:
    """Make one branch of two that meet where no other does."""
    degrees = _count_ends(branches)
    at: dict[int, list[Branch]] = {}
    for branch in branches:
        for node in branch.nodes:
            at.setdefault(node, []).append(branch)
    left = dict.fromkeys(branches)  # keeps their order
    for node, degree in degrees.items():
        first, *others = at[node]
        if degree != 2 or not others or first is others[0]:
            continue  # an end, a branch point, or a closed loop
        (second,) = others
        ahead = first if first.nodes[1] == node else first.reverse
        behind = second if second.nodes[0] == node else second.reverse
        joined = Branch(
            (ahead.nodes[0], behind.nodes[1]),
            np.concatenate([ahead.points, behind.points[1:]]),
            np.concatenate([ahead.radius, behind.radius[1:]]),
        )
        for old in (first, second):
            del left[old]
        left[joined] = None
        for end in joined.nodes:
            at[end] = [joined if each in (first, second) else each for each in at[end]]
    return list(left)


def _extension(branch: Branch, vessels: Mask) -> float:
    """How much longer the vessel is at its start than its centreline, which may be negative.

    A skeleton stops short of a round end and runs into a corner of a square one. So the direction
    is taken further back, and followed to the border.
    """
    back = min(1.5 * float(np.median(branch.radius)), branch.arc / 3)
    start, behind = _interpolate(branch, np.array([back, 2 * back]))
    direction = (start - behind) / max(float(np.hypot(*(start - behind))), 1e-9)
    way = np.arange(0, 4 * branch.radius.max() + 2, _RAY_STEP)
    ray = np.rint(start + way[:, None] * direction).astype(int)
    inside = ((ray >= 0) & (ray < vessels.shape)).all(axis=1)
    inside[inside] = vessels[tuple(ray[inside].T)]
    return float(inside.argmin() * _RAY_STEP) - back


def _interpolate(branch: Branch, places: NDArray[np.float64]) -> Points:
    """Points at distances along the smoothed centreline."""
    return np.stack([np.interp(places, branch.along, axis) for axis in branch.line.T], axis=1)


def box_dimension(branches: list[Branch], diameter: float) -> float | None:
    """Minkowski dimension of centrelines, from the areas of their dilations; None for no line."""
    from scipy.ndimage import distance_transform_edt

    if not branches:
        return None
    # Drawn again, so that the field of view has the same number of pixels in every photograph.
    factor = _CANVAS / diameter
    reach = _REACH * _CANVAS
    lines = []
    for branch in branches:
        places = np.linspace(0, branch.arc, int(2 * branch.arc * factor) + 2)
        lines.append(_interpolate(branch, places) * factor)
    origin = np.min([line.min(axis=0) for line in lines], axis=0) - reach[-1] - 2
    size = np.max([line.max(axis=0) for line in lines], axis=0) - origin + reach[-1] + 3
    canvas = np.zeros(size.astype(int), dtype=np.int8)
    for line in lines:
        canvas[_to_index(line - origin)] = 1
    for branch, line in zip(branches, lines, strict=True):
        canvas[_to_index((line - origin)[[0, -1]][list(branch.free)])] = 2
    distance, nearest = distance_transform_edt(canvas == 0, return_indices=True)
    # What lies beyond a free end makes a short line look like less than a line.
    distance = distance[(distance < reach[-1] + 0.5) & (canvas[tuple(nearest)] == 1)]
    # A pixel at the rim counts by the share of it that is within reach.
    area = [(each + 0.5 - distance).clip(0, 1).sum() for each in reach]
    slope = np.polyfit(np.log(reach), np.log(area), 1)[0]
    return float(2 - slope)


def weighted_quantiles(
    values: NDArray[np.float64], weights: NDArray[np.float64], shares: Sequence[float]
) -> list[float | None]:
    """Values below which a share of the weight lies; None for each if there is no value."""
    if not len(values):
        return [None] * len(shares)
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    places = [int(np.searchsorted(total, share * total[-1])) for share in shares]
    return [float(values[order[min(place, len(values) - 1)]]) for place in places]
