"""Pure torch bricks: no transformers, no files, no text."""
