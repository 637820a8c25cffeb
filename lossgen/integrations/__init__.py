"""lossgen in other people's training loops: transformers, TRL, timm.

Nothing here is imported by ``import lossgen``, and only :mod:`~lossgen.integrations.trl` imports
the library that it is for: models and trainers are known by what they can do.
"""

from __future__ import annotations

__all__: list[str] = []
