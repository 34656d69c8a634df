"""Images: find, verify, register, split, decode, augment."""
