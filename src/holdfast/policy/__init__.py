"""Pure decisions: no I/O, no clock, nothing but values in and values out.

- ``targets``: what TARGET means;
- ``lines``: the WAL held, joined to stretches of each timeline's line; ``records``: what is known of its records;
- ``windows``: which moments can be reached, and where gaps are;
- ``recovery``: from snapshots, WAL and a target to a plan (``searching``, ``replaying``), or to a refusal that says
  what can be reached (``refusals``);
- ``resuming``: where a receiver goes on, or why it must not (``same_server``); ``durable``: what is safe everywhere;
- ``health``: what is wrong, how badly, and what to run (``facts``, ``protection``, ``receiver_health``, ``wording``).
"""
