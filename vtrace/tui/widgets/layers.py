"""The layers of a packet as a tree: a header a branch, a field a leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message

from vtrace.text import cells, clean
from vtrace.tui.widgets.pane import Line, LinesPane

if TYPE_CHECKING:
    from vtrace.packets import Field, Layer

__all__ = ["LayersPane", "Node", "layer_lines"]

OPEN: Final = ("virtio_net_hdr", "UDP", "TCP", "answer")
"""Layers whose fields are shown until somebody folds them; so are requests."""
NAME_CELLS: Final = 14
"""Cells of the name of a field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A layer, or a field of one."""

    layer: int
    field: int | None = None
    span: range | None = dataclasses.field(default=None, compare=False)
    """Captured bytes that it is in."""


def layer_lines(
    layers: Sequence[Layer], opened: frozenset[str] | set[str], width: int
) -> list[Line]:
    """Return the lines of a tree; ``opened`` has the names of the layers whose fields are shown."""
    lines = []
    for at, layer in enumerate(layers):
        is_open = layer.name in opened
        text = Text().append("▾ " if is_open else "▸ ", style="dim")
        text.append(clean(layer.name), style="bold")
        summary = clean(layer.summary)
        if summary:
            text.append(f"  {summary}", style="dim")
        lines.append(Line(text, Node(at, None, layer.span)))
        if is_open:
            lines += [
                Line(_leaf(one, width), Node(at, number, one.span))
                for number, one in enumerate(layer.fields)
            ]
    return lines


def _leaf(one: Field, width: int) -> Text:
    name = clean(one.name, NAME_CELLS)
    text = Text("    ")
    text.append(name + " " * (NAME_CELLS - cells(name)), style="cyan")
    value = clean(one.text, max(width - NAME_CELLS - 6, 8))
    text.append(f" {value}", style="alarm" if "(wrong" in one.text else "text")
    return text


class LayersPane(LinesPane):
    """The layers of a packet. What is open stays open from one packet to the next."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "unfold(True)", "unfold", show=False, id="layers.unfold"),
        Binding("left,h", "unfold(False)", "fold", show=False, id="layers.fold"),
    ]

    class Pointed(Message):
        """The cursor stands on a layer or a field."""

        def __init__(self, pane: LayersPane, node: Node) -> None:
            super().__init__()
            self.pane = pane
            self.node = node

        @property
        def control(self) -> LayersPane:
            """The pane."""
            return self.pane

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 as Textual names it
        super().__init__("layers", id=id)
        self._layers: Sequence[Layer] = ()
        self._open: set[str] = set(OPEN)
        self._known: set[str] = set(OPEN)

    def show_layers(self, layers: Sequence[Layer], note: str = "") -> None:
        """Show the layers of a packet; without any, ``note``."""
        chosen = self.chosen
        self._layers = layers
        self._open |= {
            layer.name
            for layer in layers
            if layer.name not in self._known and layer.name.endswith(" request")
        }
        self._known |= {layer.name for layer in layers}
        if not layers:
            self.set_texts([Text(note, style="dim")])
            return
        self.set_lines(self._made, keep=True)
        if isinstance(chosen, Node):
            self.choose(chosen)
        self._point()

    def _made(self, width: int) -> Iterable[Line]:
        return layer_lines(self._layers, self._open, width)

    def _point(self) -> None:
        if isinstance(self.chosen, Node):
            self.post_message(self.Pointed(self, self.chosen))

    def on_lines_pane_moved(self) -> None:
        """Say where the cursor is."""
        self._point()

    def action_unfold(self, unfold: bool) -> None:
        """Show the fields of a layer, or no longer."""
        node = self.chosen
        if not isinstance(node, Node):
            return
        name = self._layers[node.layer].name
        if unfold == (name in self._open):
            if unfold:
                self.action_step(1)
            return
        self._open.symmetric_difference_update({name})
        self.set_lines(self._made, keep=True)
        self.choose(Node(node.layer))
        self._point()

    def action_open(self) -> None:
        """Show the fields of a layer, or no longer."""
        node = self.chosen
        if isinstance(node, Node):
            self.action_unfold(self._layers[node.layer].name not in self._open)

    def fold_all(self, fold: bool) -> None:
        """Show the fields of all layers, or of none."""
        self._open = set() if fold else {layer.name for layer in self._layers}
        self.set_lines(self._made, keep=True)
