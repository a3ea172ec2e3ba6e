"""`draw`: the picture of a graph, as a file."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from fundamentals.graph.nodes import Node
from fundamentals.graph.png import to_png
from fundamentals.graph.scene import scene
from fundamentals.graph.shapes import Scene
from fundamentals.graph.svg import to_svg

WIDTH = 1600.0  # of a screen
_RENDERERS: dict[str, Callable[[Scene], bytes]] = {".svg": to_svg, ".png": to_png}


def draw(
    nodes: Sequence[Node],
    outputs: Sequence[int],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    labels: Mapping[int, str] | None = None,
    width: float = WIDTH,
) -> None:
    """Writes the picture of a graph: values above the wires in green, gradients below them in red.

    Args:
      nodes: operands before those that use them; `node.index` is a node's place.
      outputs: indices of the nodes that are the results.
      path: of the file, `.svg`, or `.png`, which needs matplotlib. If it exists it is replaced.
      title: above the picture.
      labels: a word below a node's box, by its index.
      width: of a row in pixels, about: what is wider is drawn in several; `math.inf` for a single one.
    """
    file = pathlib.Path(path)
    renderer = _RENDERERS.get(file.suffix.lower())
    if renderer is None:
        raise ValueError(f"draw: path has suffix {file.suffix!r} in {str(path)!r}; expected .svg or .png")
    if not width > 0:
        raise ValueError(f"draw: width is {width!r}; expected a number > 0")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"draw: there is no folder {str(file.parent)!r} for {str(path)!r}")
    if file.is_dir():
        raise IsADirectoryError(f"draw: {str(path)!r} is a folder; expected a file")
    content = renderer(scene(nodes, outputs, title, labels, width))
    # Written beside the file and moved there when complete: whatever fails, no half file is left.
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
