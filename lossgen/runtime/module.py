"""What the ``nn.Module`` twins of the functions share."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

__all__ = ["LossModule"]


class LossModule(nn.Module):
    """Options of a loss as attributes; per-class inputs are buffers, so that ``.to`` and
    ``state_dict`` take them along."""

    _kept: ClassVar[tuple[str, ...]]  # the names of the options, as the function takes them

    def _options(self) -> dict[str, Any]:
        """What the function is called with, by name."""
        return {name: getattr(self, name) for name in self._kept}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={_shown(value)}" for name, value in self._options().items())


def _shown(value: object) -> str:
    """A number per class by its size: its values would fill the page."""
    if isinstance(value, Tensor):
        return f"tensor[{', '.join(map(str, value.shape))}]"
    return repr(value)
