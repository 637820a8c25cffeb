"""Settings: one frozen object, read from ``LOSSGEN_*`` environment variables.

=======================  ==============  =========================================================
variable                 default         meaning
=======================  ==============  =========================================================
``LOSSGEN_CACHE_DIR``    the user cache  built specs (``lossgen.load(path)``) and compiled C
``LOSSGEN_JOBS``         2               processes of ``lossgen build --all``; 1 uses none
``LOSSGEN_MAX_NODES``    10000           size of a formula and its derivative, multiplied out
``LOSSGEN_MAX_SECONDS``  30              processor seconds that compiling one spec may take
``LOSSGEN_MAX_MIB``      1024            memory that compiling one spec may take
``LOSSGEN_TRACEBACK``    0               1 shows the Python traceback of every error
=======================  ==============  =========================================================

A variable that is set to something else than its accepted values is an error, and so is a
``LOSSGEN_*`` variable that this table does not name: a misspelled setting is never silent.
(``LOSSGEN_TEST_*`` variables belong to the test suite.)  The runtime, which is copied without
this module, reads the cache folder itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lossgen.errors import BuildError

__all__ = ["Options", "options"]

_PREFIX = "LOSSGEN_"
_SWITCH = {"0": False, "1": True}


class UnknownOption(BuildError):
    id = "LG311"
    template = "unknown environment variable {name}"
    advice = (
        "known: LOSSGEN_CACHE_DIR, LOSSGEN_JOBS, LOSSGEN_MAX_MIB, LOSSGEN_MAX_NODES, "
        "LOSSGEN_MAX_SECONDS, LOSSGEN_TRACEBACK"
    )


class BadOption(BuildError):
    id = "LG312"
    template = "{name}={value!r} is not accepted"


@dataclass(frozen=True)
class Options:
    """One value per row of the module's table."""

    jobs: int = 2  # the catalogue builds in half the time; more gains little on few cores
    max_nodes: int = 10_000  # five times the largest formula of the catalogue
    max_seconds: int = 30  # processor time, so that a busy machine compiles what an idle one does
    max_mib: int = 1024  # fifty times what the catalogue takes
    traceback: bool = False  # off: users see errors, not our stack

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Options:
        """Read and check every ``LOSSGEN_*`` variable.

        Raises:
            UnknownOption, BadOption: unknown variable, or a value that is not accepted.
        """
        given = {
            name.removeprefix(_PREFIX): value
            for name, value in environment.items()
            if name.startswith(_PREFIX) and not name.startswith(f"{_PREFIX}TEST_")
        }
        given.pop("CACHE_DIR", None)
        options = cls(
            jobs=_count("JOBS", given.pop("JOBS", str(cls.jobs))),
            max_nodes=_count("MAX_NODES", given.pop("MAX_NODES", str(cls.max_nodes))),
            max_seconds=_count("MAX_SECONDS", given.pop("MAX_SECONDS", str(cls.max_seconds))),
            max_mib=_count("MAX_MIB", given.pop("MAX_MIB", str(cls.max_mib))),
            traceback=_switch("TRACEBACK", given.pop("TRACEBACK", "0")),
        )
        for name in sorted(given):
            raise UnknownOption(name=f"{_PREFIX}{name}")
        return options


def options() -> Options:
    """The settings of this process, read anew at each call."""
    return Options.from_environment(os.environ)


def _count(name: str, value: str) -> int:
    if value.isascii() and value.isdigit() and int(value) >= 1:
        return int(value)
    raise _rejected(name, value, "a positive integer")


def _switch(name: str, value: str) -> bool:
    if value in _SWITCH:
        return _SWITCH[value]
    raise _rejected(name, value, " or ".join(_SWITCH))


def _rejected(name: str, value: str, accepted: str) -> BuildError:
    return BadOption(name=f"{_PREFIX}{name}", value=value, hint=f"accepted: {accepted}")
