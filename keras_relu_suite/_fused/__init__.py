"""The fused two-sided slope of `ops`, once per backend. `ops` imports the one that is needed when it is first used.

Every module defines

    two_sided(x, negative, positive) -> y        positive may be None: the constant 1 (PReLU)

with y = positive·x for x > 0 and negative·x for x ≤ 0 (NaN included), whose forward keeps only x and the slopes, and
whose backward gives

    dx        = positive·dy for x > 0, negative·dy else
    dnegative = Σ x·dy over x ≤ 0,    dpositive = Σ x·dy over x > 0       (accumulated in float32 or wider)
"""
