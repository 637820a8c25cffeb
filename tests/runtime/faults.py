"""What may go wrong around compiled programs, as tables: compilers, and files of a cache.

``tests/runtime/test_c_build.py`` and ``tests/cli/test_load.py`` go through them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: What a script sees: $out is the library that it is asked for, $cc the compiler that works.
_HEAD = """#!/bin/sh
cc={cc}
out= previous=
for argument; do [ "$previous" = -o ] && out=$argument; previous=$argument; done
"""
_ANSWER = '[ "$1" = --version ] && exec $cc "$@"\n'


@dataclass(frozen=True)
class Compiler:
    """A fake C compiler: a shell script."""

    script: str  # what it does when it is asked to compile
    said: str | None  # part of the one warning; None: all is well
    answer: str = _ANSWER  # what it does when it is asked for its version

    def write(self, folder: Path, cc: str) -> Path:
        path = folder / "fake compiler"  # with a space in its name
        path.write_bytes((_HEAD.format(cc=cc) + self.answer + self.script).encode("latin-1"))
        path.chmod(0o755)
        return path


COMPILERS = {
    "good": Compiler('exec $cc "$@"', None),
    "fails": Compiler("echo 'no such thing' >&2; exit 1", "C compiler failed:\nno such thing"),
    "fails, not in UTF-8": Compiler("printf 'erreur \\351\\377' >&2; exit 1", "compiler failed"),
    "fails at length": Compiler("yes | head -c 3000000; echo end; exit 1", "end\n; losses on"),
    "makes nothing": Compiler("exit 0", "made no library"),
    "makes an empty file": Compiler(': > "$out"', "cannot be loaded"),
    "makes a text": Compiler('echo text > "$out"', "cannot be loaded"),
    "makes a folder": Compiler('mkdir "$out"', "made no library"),
    "makes half of it": Compiler(
        '$cc "$@" && head -c 4096 "$out" > "$out.x" && mv "$out.x" "$out"', "made half a library"
    ),
    "makes another": Compiler(
        'exec $cc -shared -fPIC -o "$out" -x c /dev/null', "library of another program"
    ),
    "never ends": Compiler("sleep 1000", "did not end within"),
    "prints for ever": Compiler("exec yes", "did not end within"),
    "leaves a process": Compiler('sleep 2 & exec $cc "$@"', None),
    "has no version": Compiler("", "no C compiler was found", "exit 1\n"),
    "has a Latin-1 version": Compiler(
        'exec $cc "$@"', None, '[ "$1" = --version ] && { printf "\\351\\n"; exit; }\n'
    ),
    "never answers": Compiler("", "did not end within", "sleep 1000\n"),
}

#: Values of $CC that are no command of a compiler.
COMMANDS = {
    "gcc 'x": "is not a command",
    "true": "made no library",
    "/no/such/compiler": "no C compiler was found",
    "/": "no C compiler was found",
    "\udcff": "no C compiler was found",
}


def _truncate(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size)


def _edit(place: int) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place if place < 0 else place % len(content)] ^= 1
        path.write_bytes(content)

    return edit


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


#: What happens to a file of a cache, which then is made again without a word.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "emptied": _truncate(0),
    "cut to a page": _truncate(4096),
    "cut at its end": lambda path: os.truncate(path, path.stat().st_size - 1),
    "its first byte": _edit(0),
    "a byte of it": _edit(2000),
    "a byte of its digest": _edit(-10),
    "another file": lambda path: path.write_bytes(b"another file"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\nimport os\n"),
}

#: What is refused with a warning, and not removed.
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "others write it": (lambda path: path.chmod(0o602), "other users can write it"),
    "its group writes it": (lambda path: path.chmod(0o620), "other users can write it"),
    "others write its folder": (lambda path: path.parent.chmod(0o777), "other users can write it"),
    "others write above": (
        lambda path: path.parent.parent.chmod(0o777),
        "every user can replace what is in it",
    ),
    "a folder": (_instead(Path.mkdir), "it is not a file"),
    "a pipe": (_instead(os.mkfifo), "it is not a file"),
    "a link": (_link, os.strerror(40)),
}
if os.getuid() == 0:
    REFUSED |= {
        "another's": (lambda path: os.chown(path, 4321, -1), "it belongs to user 4321"),
        "another's folder": (
            lambda path: os.chown(path.parent, 4321, -1),
            "it belongs to user 4321",
        ),
    }
