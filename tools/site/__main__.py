"""``python -m tools.site``: the documentation site, in build/site/html."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.site.facts import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", metavar="FOLDER")
    out: Path = parser.parse_args().out
    from tools.site.build import build

    print(f"open {build(out)}")


if __name__ == "__main__":
    main()
