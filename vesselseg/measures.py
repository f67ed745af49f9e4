"""Measures of the vessels in a mask: density, length, branching, width, dimension, tortuosity.

::

    mask -> skeleton -> branches between branch points and ends -> pruned and joined -> measures

Every measure is the same for a mask, its mirror image and its turns by 90 degrees, since the mask
is first brought into one of its eight orientations. Lengths come from smoothed centrelines and
widths from areas, so that other angles change little.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import MissingExtraError, OptionError, require
from .metrics import to_bool
from .spec import is_factor, plain

Mask: TypeAlias = "NDArray[np.bool_]"
Points: TypeAlias = "NDArray[np.float64]"  # (N, 2): rows and columns in pixels

_SMOOTHING = 2.0  # pixels; the standard deviation that a centreline is smoothed with
_RAY_STEP = 0.25  # pixels
_CANVAS = 1500  # pixels; the diameter of the field of view where the dimension is computed
_REACH = np.geomspace(1 / 180, 1 / 20, 17)  # of the dilations, in diameters of the field of view


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of one mask; lengths are in pixels, and None is what a mask does not have.

    Attributes
    ----------
    area : int
        Pixels of the field of view.
    diameter : float
        Of the disc with that area, in pixels.
    density : float
        Share of the field of view that is vessel, in [0, 1].
    length : float
        Length of all centrelines, in pixels.
    length_density : float
        `length` times `diameter` over `area`: how many diameters of centreline there are, for
        each square diameter of area.
    branch_points, end_points : int
        Where three or more branches meet, and where one ends inside the field of view. Places
        where the border of the field of view cuts a vessel are not counted as ends.
    width_quartiles : (float, float, float) or None
        Lower quartile, median and upper quartile of the width along the centrelines, in pixels.
    box_dimension : float or None
        Dimension of the centrelines, from 1 (a line) to 2 (they fill the plane).
    tortuosity : float or None
        Median ratio of arc to chord, over branches weighted by their length; 1 is straight.
    mm_per_pixel : float or None
        Scale of the photograph, if you passed it.
    segments : dict of str to ndarray
        A table of the branches, as columns of equal length that ``pandas.DataFrame`` takes:
        ``length``, ``chord``, ``width`` (median; NaN where branches lie too close to tell) in
        pixels, ``tortuosity`` (NaN for a closed loop), and ``row``, ``column``, ``end_row``,
        ``end_column`` of both ends.
    """

    area: int
    diameter: float
    density: float
    length: float
    length_density: float
    branch_points: int
    end_points: int
    width_quartiles: tuple[float, float, float] | None
    box_dimension: float | None
    tortuosity: float | None
    mm_per_pixel: float | None = None
    segments: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, float | int | None]:
        """The measures as plain numbers, with the unit in each name.

        ``_px`` is pixels and ``_fov`` the share of the field of view's diameter. With a scale,
        ``length_mm`` and widths in micrometres, ``_um``, are added.
        """
        widths = dict(zip(("q1", "median", "q3"), self.width_quartiles or [None] * 3, strict=True))
        row: dict[str, float | int | None] = {
            "fov_area_px": self.area,
            "fov_diameter_px": self.diameter,
            "density": self.density,
            "length_px": self.length,
            "length_density": self.length_density,
            "branch_points": self.branch_points,
            "end_points": self.end_points,
            **{f"width_{name}_px": width for name, width in widths.items()},
            **{f"width_{n}_fov": w and w / self.diameter for n, w in widths.items()},
            "box_dimension": self.box_dimension,
            "tortuosity": self.tortuosity,
        }
        if self.mm_per_pixel:
            row["length_mm"] = self.length * self.mm_per_pixel
            for name, width in widths.items():
                row[f"width_{name}_um"] = width and width * self.mm_per_pixel * 1000
        return row


def measure(
    mask: ArrayLike, *, fov: ArrayLike | None = None, mm_per_pixel: float | None = None
) -> Measures:
    """Measure the vessels in a mask.

    Parameters
    ----------
    mask : array_like (H, W)
        bool, or integers with one value besides 0, such as 0 and 255.
    fov : array_like (H, W), optional
        The field of view, likewise; None is the whole frame. Vessels outside it do not count.
    mm_per_pixel : float, optional
        Size of a pixel on the retina, in millimetres, if you know it.

    Returns
    -------
    Measures

    Raises
    ------
    OptionError
        If an argument is outside what is described here, or the field of view is empty.
    MissingExtraError
        If the extra ``vesselseg[measure]`` is not installed, or cannot be imported.

    Notes
    -----
    The skeleton is that of Zhang and Suen (1984, doi:10.1145/357994.358023), cut into branches by
    skan (Nunez-Iglesias et al. 2018, doi:10.7717/peerj.4312). Two branch points that are closer
    than the vessel is wide become one. Then a branch with a free end is removed if it is shorter
    than the vessel is wide where it starts, until there is none. "As wide" is twice the distance
    to the background.

    - *Length*: each centreline is smoothed with a Gaussian of 2 pixels, its ends held, and
      extended at free ends to the border of the vessel.
    - *Width*: each pixel of the mask belongs to the nearest pixel of the skeleton. Width is the
      area that belongs to a piece of centreline over its length. Near branch points and ends it
      is not defined and left out.
    - *Box dimension*: 2 minus the slope of log A against log r, where A is the area within r of
      the centrelines, for r from 1/180 to 1/20 of the diameter. This Minkowski dimension equals
      the box-counting dimension (Falconer 2014, Fractal Geometry, section 2.2), and does not
      depend on where a grid of boxes lies.
    - *Tortuosity*: arc over chord (Hart et al. 1999, doi:10.1016/S1386-5056(98)00163-4). Closed
      loops have none.

    Examples
    --------
    >>> import numpy as np, vesselseg
    >>> mask = np.zeros((200, 200), bool)
    >>> mask[96:104, 20:180] = True
    >>> measures = vesselseg.measure(mask)
    >>> measures.width_quartiles[1], round(measures.length), measures.end_points
    (8.0, 160, 2)
    """
    mask = _to_mask(mask, "mask")
    inside = np.ones_like(mask) if fov is None else _to_mask(fov, "fov")
    if inside.shape != mask.shape:
        raise OptionError(f"mask has the shape {mask.shape}, but fov has {inside.shape}.")
    if not inside.any():
        raise OptionError("The field of view is empty: fov has no pixel that is True.")
    mm_per_pixel = check_mm_per_pixel(mm_per_pixel)
    require_skan()
    vessels, inside, orientation = _canonical(mask & inside, inside)
    area = int(inside.sum())
    diameter = float(2 * np.sqrt(area / np.pi))
    branches = _find_branches(vessels)
    degrees = _count_ends(branches)
    lengths = np.array([branch.arc + branch.extension for branch in branches])
    tortuosity = np.array([branch.tortuosity for branch in branches])
    width, step = np.concatenate([np.empty((2, 0)), *(b.widths for b in branches)], axis=1)
    quartiles = _weighted_quantiles(width, step, (0.25, 0.5, 0.75))
    is_curve = np.isfinite(tortuosity)
    middle = _weighted_quantiles(tortuosity[is_curve], lengths[is_curve], (0.5,))
    medians = [_weighted_quantiles(*branch.widths, (0.5,)) for branch in branches]
    ends = [orientation.undo(branch.points[[0, -1]]).ravel() for branch in branches]
    rows, columns, end_rows, end_columns = np.array(ends).reshape(-1, 4).T
    length = float(lengths.sum())
    return Measures(
        area=area,
        diameter=diameter,
        density=float(vessels.sum() / area),
        length=length,
        length_density=length * diameter / area,
        branch_points=sum(degree > 2 for degree in degrees.values()),
        end_points=_count_free_ends(branches, inside),
        width_quartiles=(quartiles[0], quartiles[1], quartiles[2]) if quartiles else None,
        box_dimension=_box_dimension(branches, diameter),
        tortuosity=middle[0] if middle else None,
        mm_per_pixel=mm_per_pixel,
        segments={
            "length": lengths,
            "chord": np.array([branch.chord for branch in branches]),
            "tortuosity": tortuosity,
            "width": np.array([median[0] if median else np.nan for median in medians]),
            "row": rows,
            "column": columns,
            "end_row": end_rows,
            "end_column": end_columns,
        },
    )


def check_mm_per_pixel(mm_per_pixel: float | None) -> float | None:
    """Return the size of a pixel; raise OptionError if it is not a positive number or None."""
    mm_per_pixel = plain(mm_per_pixel)
    if mm_per_pixel is not None and not is_factor(mm_per_pixel):
        raise OptionError(f"mm_per_pixel is {mm_per_pixel!r}; it must be a positive number.")
    return mm_per_pixel


def require_skan() -> None:
    """Raise MissingExtraError unless what measures are made with can be imported."""
    try:
        require("skan", "measure")
        require("skimage", "measure")
    except RuntimeError as error:  # of Numba, which keeps what it compiles
        raise MissingExtraError(
            f"skan cannot be imported: {error}. If neither its folder nor your home can be "
            f"written, set the environment variable NUMBA_CACHE_DIR to a folder that can."
        ) from error


def _to_mask(values: ArrayLike, name: str) -> Mask:
    """A bool array (H, W); OptionError for anything else."""
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "bui":
        raise OptionError(
            f"{name} has the shape {array.shape} and the type {array.dtype}; it must be (H, W), "
            f"bool or integer. Threshold a probability first: probability > 0.5."
        )
    return to_bool(array, name)


@dataclass(frozen=True)
class _Orientation:
    """How a mask was mirrored and turned: transposed or not, then flipped along its axes."""

    transposed: bool
    flipped: tuple[bool, bool]
    shape: tuple[int, int]  # of the result

    def apply(self, mask: Mask) -> Mask:
        """The mask in this orientation."""
        turned = mask.T if self.transposed else mask
        rows, columns = (slice(None, None, -1 if flipped else 1) for flipped in self.flipped)
        return np.ascontiguousarray(turned[rows, columns])

    def undo(self, points: Points) -> Points:
        """Where points of the result are in the mask as it was."""
        last = np.array(self.shape) - 1
        original = np.where(self.flipped, last - points, points)
        return original[:, ::-1] if self.transposed else original


def _canonical(mask: Mask, fov: Mask) -> tuple[Mask, Mask, _Orientation]:
    """Of the eight orientations of mask and field of view, the one whose bytes come first."""

    def content(orientation: _Orientation) -> tuple[tuple[int, int], bytes, bytes]:
        vessels, inside = orientation.apply(mask), orientation.apply(fov)
        return orientation.shape, np.packbits(vessels).tobytes(), np.packbits(inside).tobytes()

    height, width = mask.shape
    orientations = [
        _Orientation(transposed, (down, across), (width, height) if transposed else (height, width))
        for transposed, down, across in itertools.product((False, True), repeat=3)
    ]
    first = min(orientations, key=content)
    return first.apply(mask), first.apply(fov), first


@dataclass(eq=False)
class _Branch:
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
        return _smooth(self.points)

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
    def reverse(self) -> _Branch:
        """The branch from its other end."""
        return _Branch(self.nodes[::-1], self.points[::-1], self.radius[::-1])


def _find_branches(vessels: Mask) -> list[_Branch]:
    """The centrelines of a mask, pruned and joined, with all that is measured on them."""
    from scipy.ndimage import distance_transform_edt

    radius = distance_transform_edt(np.pad(vessels, 1))[1:-1, 1:-1]
    branches = _join(_merge_nodes(list(_trace(vessels, radius))))
    while len(kept := _prune(branches)) < len(branches):
        branches = _join(kept)
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


def _trace(vessels: Mask, radius: NDArray[np.float64]) -> Iterator[_Branch]:
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
        yield _Branch((int(nodes[0]), int(nodes[-1])), points, radius[_to_index(points)])


def _to_index(points: Points) -> tuple[NDArray[np.int64], ...]:
    """Points as an index of the pixels that they lie in."""
    return tuple(np.rint(points).astype(np.int64).T)


def _count_ends(branches: Iterable[_Branch]) -> Counter[int]:
    """How many branches end at each node."""
    return Counter(node for branch in branches for node in branch.nodes)


def _count_free_ends(branches: list[_Branch], fov: Mask) -> int:
    """How many branches end inside the field of view, rather than at its border."""
    from scipy.ndimage import distance_transform_edt

    to_border = distance_transform_edt(np.pad(fov, 1))[1:-1, 1:-1]
    return sum(
        int(to_border[_to_index(branch.points[[end]])][0] > 2 * branch.radius[end] + 1)
        for branch in branches
        for end, is_free in zip((0, -1), branch.free, strict=True)
        if is_free
    )


def _merge_nodes(branches: list[_Branch]) -> list[_Branch]:
    """Make one of branch points that are closer than the vessel is wide there."""
    degrees = _count_ends(branches)
    group: dict[int, int] = {node: node for node in degrees}

    def find(node: int) -> int:
        while group[node] != node:
            node = group[node]
        return node

    long = []
    for branch in branches:
        first, last = branch.nodes
        is_inner = degrees[first] > 2 and degrees[last] > 2
        if is_inner and branch.arc < 2 * branch.radius[[0, -1]].max():
            group[find(first)] = find(last)
        else:
            long.append(branch)
    places: dict[int, list[Points]] = {}
    for branch in branches:
        for node, point in zip(branch.nodes, branch.points[[0, -1]], strict=True):
            places.setdefault(find(node), []).append(point)
    merged = []
    for branch in long:
        nodes = (find(branch.nodes[0]), find(branch.nodes[1]))
        points, radius = branch.points, branch.radius
        for end, node in zip((0, -1), nodes, strict=True):
            centre = np.unique(places[node], axis=0).mean(axis=0)
            if degrees[branch.nodes[end]] > 2 and not np.array_equal(centre, points[end]):
                at = 0 if end == 0 else len(points)
                points = np.insert(points, at, centre, axis=0)
                radius = np.insert(radius, at, radius[end])
        merged.append(_Branch(nodes, points, radius))
    return merged


def _prune(branches: list[_Branch]) -> list[_Branch]:
    """The branches without spurs: free ends shorter than the vessel is wide where they start."""
    degrees = _count_ends(branches)

    def is_spur(branch: _Branch) -> bool:
        free = [degrees[node] == 1 for node in branch.nodes]
        if not any(free):
            return False
        radius = branch.radius.max() if all(free) else branch.radius[-free.index(False)]
        return bool(branch.arc < 2 * radius)

    return [branch for branch in branches if not is_spur(branch)]


def _join(branches: list[_Branch]) -> list[_Branch]:
    """Make one branch of two that meet where no other does."""
    degrees = _count_ends(branches)
    at: dict[int, list[_Branch]] = {}
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
        joined = _Branch(
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


def _extension(branch: _Branch, vessels: Mask) -> float:
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


def _interpolate(branch: _Branch, places: NDArray[np.float64]) -> Points:
    """Points at distances along the smoothed centreline."""
    return np.stack([np.interp(places, branch.along, axis) for axis in branch.line.T], axis=1)


def _smooth(points: Points) -> Points:
    """Smooth a line through points; its ends are held."""
    from scipy.ndimage import gaussian_filter1d

    count = min(len(points) - 1, int(4 * _SMOOTHING))
    before = 2 * points[0] - points[count:0:-1]
    after = 2 * points[-1] - points[-2 : -count - 2 : -1]
    padded = np.concatenate([before, points, after])
    line = gaussian_filter1d(padded, _SMOOTHING, axis=0)[len(before) : len(before) + len(points)]
    line[0], line[-1] = points[0], points[-1]
    return np.asarray(line)


def _box_dimension(branches: list[_Branch], diameter: float) -> float | None:
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


def _weighted_quantiles(
    values: NDArray[np.float64], weights: NDArray[np.float64], shares: Iterable[float]
) -> list[float]:
    """Values below which a share of the weight lies; [] for no value."""
    if not len(values):
        return []
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    places = [int(np.searchsorted(total, share * total[-1])) for share in shares]
    return [float(values[order[min(place, len(values) - 1)]]) for place in places]
