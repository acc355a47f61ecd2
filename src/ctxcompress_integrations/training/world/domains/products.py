"""Product sheets."""

from __future__ import annotations

from ctxcompress_integrations.training.world import words as w
from ctxcompress_integrations.training.world.kinds import Attribute, Domain

PRODUCTS = Domain(
    "products",
    "product",
    (
        Attribute(
            "designer",
            w.PERSON,
            (
                "The first drawings of the {n} were made by {v}.",
                "{v} is the designer to whom we owe the {n}.",
                "The {n} was designed by {v} over one long winter.",
            ),
            ("Who designed the {n}?", "Who is the designer of the {n}?"),
        ),
        Attribute(
            "material",
            w.MATERIAL,
            (
                "The body of the {n} is made of the best {v}.",
                "For the {n} nothing but solid {v} is used.",
                "Under its surface the {n} is made of pure {v}.",
            ),
            ("What is the {n} made of?", "Of which material is the {n} made?"),
        ),
        Attribute(
            "colour",
            w.COLOUR,
            (
                "The {n} comes in one colour only, which is {v}.",
                "In the shop the {n} stands out by its {v} colour.",
                "Every {n} that leaves the factory is painted {v}.",
            ),
            ("What colour is the {n}?", "Which colour does the {n} have?"),
        ),
        Attribute(
            "price",
            w.NUMBER,
            (
                "In most shops the price of the {n} is {v} dollars.",
                "The {n} is sold for {v} dollars, taxes included.",
                "You have to pay {v} dollars if you want the {n}.",
            ),
            ("How many dollars does the {n} cost?", "What is the price of the {n} in dollars?"),
        ),
        Attribute(
            "country",
            w.COUNTRY,
            (
                "All parts of the {n} are made and tested in {v}.",
                "The factory that builds the {n} stands in {v}.",
                "The {n} reaches our shops by ship from {v}.",
            ),
            ("In which country is the {n} made?", "Which country does the {n} come from?"),
        ),
        Attribute(
            "spare part",
            w.TOOL,
            (
                "The part of the {n} that breaks most often is the {v}.",
                "A spare {v} comes in the box with every {n}.",
                "If the {n} stops working, one should look at the {v}.",
            ),
            ("Which part of the {n} breaks most often?", "Which spare part comes with the {n}?"),
        ),
    ),
    (
        "Please keep this sheet in a safe place for later use.",
        "Our service is open on all days except public holidays.",
        "Many people have written to us about the {n} already.",
        "The box can be used again or given back to the shop.",
        "We reserve the right to change these details at any time.",
    ),
)
