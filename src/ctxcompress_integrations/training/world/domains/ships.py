"""Papers of ships: the domain that shipped weights have never seen."""

from __future__ import annotations

from ctxcompress_integrations.training.world import words as w
from ctxcompress_integrations.training.world.kinds import Attribute, Domain

SHIPS = Domain(
    "ships",
    "ship",
    (
        Attribute(
            "captain",
            w.PERSON,
            (
                "On its last voyage the {n} sailed under captain {v}.",
                "The crew of the {n} takes its orders from {v}.",
                "{v} has been in command of the {n} for years.",
            ),
            ("Who is the captain of the {n}?", "Who commands the {n}?"),
        ),
        Attribute(
            "harbour",
            w.CITY,
            (
                "Between two voyages the {n} lies in the docks of {v}.",
                "The {n} is registered in {v} and returns there often.",
                "Her papers say that the {n} belongs to the port of {v}.",
            ),
            ("What is the home port of the {n}?", "In which port is the {n} registered?"),
        ),
        Attribute(
            "cargo",
            w.GOODS,
            (
                "Below deck the {n} carries a full load of {v}.",
                "The {n} was loaded with {v} up to the hatches.",
                "Merchants hire the {n} to bring {v} across the sea.",
            ),
            ("What cargo does the {n} carry?", "With what is the {n} loaded?"),
        ),
        Attribute(
            "launched",
            w.YEAR,
            (
                "The {n} first touched the water in {v}.",
                "Shipbuilders launched the {n} before a crowd in {v}.",
                "She was christened the {n} at her launch in {v}.",
            ),
            ("When was the {n} launched?", "In which year was the {n} launched?"),
        ),
        Attribute(
            "hull",
            w.COLOUR,
            (
                "From afar one knows the {n} by her {v} hull.",
                "The hull of the {n} has just been given a coat of {v}.",
                "Sailors painted the sides of the {n} {v}.",
            ),
            ("What colour is the hull of the {n}?", "Which colour are the sides of the {n}?"),
        ),
        Attribute(
            "crew",
            w.NUMBER,
            (
                "There are bunks on the {n} for {v} sailors.",
                "A crew of {v} is needed to sail the {n}.",
                "When the {n} left she had {v} hands on board.",
            ),
            ("How many sailors are on the {n}?", "How large is the crew of the {n}?"),
        ),
    ),
    (
        "The tide was late, and a light fog hung over the quay.",
        "Letters for the crew are handed out after the evening meal.",
        "There was a short delay while the {n} waited for the pilot.",
        "Old charts of these waters are not to be trusted.",
        "The log was closed and signed at the end of the watch.",
    ),
    is_trained=False,
)
