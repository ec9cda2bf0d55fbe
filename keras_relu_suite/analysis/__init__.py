"""What a network of rectifiers is, seen from outside: one affine map per input, and how gradients travel by depth."""
