"""Notes on villages."""

from __future__ import annotations

from ctxcompress_integrations.training.world import words as w
from ctxcompress_integrations.training.world.kinds import Attribute, Domain

VILLAGES = Domain(
    "villages",
    "the village",
    (
        Attribute(
            "mayor",
            w.PERSON,
            (
                "The people of {n} have elected {v} as their mayor.",
                "For the second time {v} is the mayor of {n}.",
                "The mayor of {n} is called {v} by everyone.",
            ),
            ("Who is the mayor of {n}?", "What is the name of the mayor of {n}?"),
        ),
        Attribute(
            "country",
            w.COUNTRY,
            (
                "{n} is a village in the hills of {v}.",
                "On old maps of {v} one can find the village of {n}.",
                "The road to {n} leads through the north of {v}.",
            ),
            ("In which country is {n}?", "Which country is {n} in?"),
        ),
        Attribute(
            "crop",
            w.GOODS,
            (
                "On market days the farmers of {n} sell {v}.",
                "{n} is known in the whole region for its {v}.",
                "Most families in {n} make a living from {v}.",
            ),
            ("What is {n} known for?", "What do the people of {n} sell?"),
        ),
        Attribute(
            "church",
            w.MATERIAL,
            (
                "The old church of {n} was built of {v}.",
                "In front of the church of {n} stands a cross of {v}.",
                "The roof of the church of {n} is made of {v}.",
            ),
            ("Of what is the church of {n} made?", "Which material was used for the church of {n}?"),
        ),
        Attribute(
            "houses",
            w.NUMBER,
            (
                "Not counting the barns there are {v} houses in {n}.",
                "{n} is made up of {v} houses and a mill.",
                "With only {v} houses {n} is the smallest place around.",
            ),
            ("How many houses are there in {n}?", "What is the number of houses in {n}?"),
        ),
        Attribute(
            "sport",
            w.SPORT,
            (
                "The young people of {n} spend their free time on {v}.",
                "Every summer {n} holds a big {v} contest.",
                "The club of {n} won a prize for {v}.",
            ),
            ("Which sport is liked in {n}?", "For what did the club of {n} win a prize?"),
        ),
    ),
    (
        "The bus comes twice a day and is never full.",
        "In the winter the snow can lie for many weeks.",
        "Those who have seen {n} once like to come back.",
        "There is talk of a new bridge across the river.",
        "The school was closed when there were too few children.",
    ),
)
