"""What the shell offers where a command takes losses, or words of a short list."""

from __future__ import annotations

from lossgen import paths

__all__ = ["complete", "complete_stage"]

_STAGES = ("parse", "differentiate", "stabilize", "certify", "schedule")


def complete(incomplete: str) -> list[str]:
    """The losses of the catalogue that begin so."""
    return [name for name in paths.spec_names() if name.startswith(incomplete)]


def complete_stage(incomplete: str) -> list[str]:
    """The stages that begin so."""
    return [name for name in _STAGES if name.startswith(incomplete)]
