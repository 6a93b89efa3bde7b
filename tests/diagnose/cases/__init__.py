"""The loss cases: each a `Provocation` with a near miss, and the plan in which they are played."""
