"""Which music there is, how it is parted, and its prepared images."""
