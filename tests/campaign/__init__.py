"""A bounded, seeded and resumable attack on the product: ``python -m tests.campaign --help``.

Each kind of case is a module with ``case(seed, index) -> Outcome``: the same two numbers give the
same case.  Cases run in a worker process, so that a crash is a finding and not the end.
"""
