"""A network of rectifiers seen from outside: its activations (`inspection`), one affine map per input (`affine`), how
gradients travel by depth (`depth`)."""
