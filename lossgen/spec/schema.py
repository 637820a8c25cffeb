"""The schema of a spec, as editors read it: ``SpecFile`` in JSON Schema's words."""

from __future__ import annotations

from typing import Any

from lossgen.spec.model import SpecFile

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12; every key has a description."""
    found = SpecFile.model_json_schema(by_alias=True)
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    head = {"title": "A spec of lossgen", "description": SpecFile.__doc__}
    return {**dialect, **found, **head}
