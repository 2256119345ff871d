"""Other people's test-suites, run unmodified against `servery serve`, and a fuzzer of the same address.

`python -m conformance SUITE`; see docs/conformance.md. Nothing of theirs is kept here: suites are fetched, or taken from
a checkout, and run in environments of their own under `build/conformance`.
"""
