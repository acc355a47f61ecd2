"""Summary vectors beside the vector index: append-only safetensors shards, and a SQLite catalogue that commits them.

Content-addressed: a row belongs to (SHA-256 of a text, fingerprint of a summarizer), never to an id, so no
change of the passages can make it wrong; it can only become one that nobody asks for. Knows no models.
"""
