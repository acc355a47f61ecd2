"""What the documents of the small world speak of: domains, their attributes, and the sentences that say them.

``{n}`` stands for the name, ``{v}`` for the value. A statement takes 9 to 16 tokens, so that a document of four to
seven of them has the length of a passage and its facts stand apart.
"""

from __future__ import annotations

from ctxcompress_integrations.training.world.domains.companies import COMPANIES
from ctxcompress_integrations.training.world.domains.incidents import INCIDENTS
from ctxcompress_integrations.training.world.domains.products import PRODUCTS
from ctxcompress_integrations.training.world.domains.ships import SHIPS
from ctxcompress_integrations.training.world.domains.staff import STAFF
from ctxcompress_integrations.training.world.domains.villages import VILLAGES

DOMAINS = {domain.name: domain for domain in (COMPANIES, PRODUCTS, INCIDENTS, STAFF, VILLAGES, SHIPS)}
TRAINED = tuple(name for name, domain in DOMAINS.items() if domain.is_trained)
HELD_OUT = tuple(name for name, domain in DOMAINS.items() if not domain.is_trained)
