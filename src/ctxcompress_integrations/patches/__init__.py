"""Model in, changed model inside ``with``, the same model out: one file per method."""
