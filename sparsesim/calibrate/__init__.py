"""From measurements on a GPU to a hardware profile, and from a profile to predictions."""
