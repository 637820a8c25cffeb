"""``python -m lossgen`` is the ``lossgen`` command."""

from lossgen.cli import main

if __name__ == "__main__":
    main()
