"""What the ``nn.Module`` twins of the functions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

__all__ = ["LossModule"]


class LossModule(nn.Module):
    """Options of a loss as attributes; per-class inputs are buffers, so that ``.to`` and
    ``state_dict`` take them along.

    An option that is called like something a module has (``training``, ``forward``) is an
    attribute with a ``_`` behind its name.
    """

    _kept: ClassVar[tuple[str, ...]] = ()  # the names of the options, as the function takes them
    _buffered: ClassVar[tuple[str, ...]] = ()  # those that are buffers
    _places: ClassVar[dict[str, str]] = {}  # option -> attribute

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        taken = {*dir(nn.Module()), *dir(LossModule)}
        cls._places = {name: _place(name, taken) for name in cls._kept}

    def __init__(self, values: Sequence[Any] = ()) -> None:
        """``values`` of the options, in the order of ``_kept``."""
        super().__init__()
        for name, value in zip(self._kept, values, strict=True):
            place = self._places[name]
            if name in self._buffered:
                self.register_buffer(place, value)
            else:
                setattr(self, place, value)

    def _options(self) -> dict[str, Any]:
        """What the function is called with, by name."""
        return {name: getattr(self, place) for name, place in self._places.items()}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={_shown(value)}" for name, value in self._options().items())


def _place(name: str, taken: set[str]) -> str:
    """The attribute of an option: behind the last name that is taken and differs by ``_`` alone,
    so that two options never share one."""
    stem = name.rstrip("_")
    ends = [len(t) - len(stem) for t in taken if t.rstrip("_") == stem]
    own = len(name) - len(stem)
    return stem + "_" * (own + 1 + max(ends)) if ends and own >= min(ends) else name


def _shown(value: object) -> str:
    """A number per class by its size: its values would fill the page."""
    if isinstance(value, Tensor):
        return f"tensor[{', '.join(map(str, value.shape))}]"
    return repr(value)
