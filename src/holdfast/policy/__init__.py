"""Pure decisions: no I/O, no clock, nothing but values in and values out.

- ``targets``: what TARGET means; - ``windows``: which moments can be reached, and where gaps are;
- ``recovery``: from snapshots, WAL and a target to a plan, or to a refusal that says what can be reached;
- ``resuming``: where a receiver goes on; - ``durable``: what is safe in every repository, contiguously;
- ``health``: what is wrong, how badly, and what to run.
"""
