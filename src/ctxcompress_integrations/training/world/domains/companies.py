"""Records of companies."""

from __future__ import annotations

from ctxcompress_integrations.training.world import words as w
from ctxcompress_integrations.training.world.kinds import Attribute, Domain

COMPANIES = Domain(
    "companies",
    "the company",
    (
        Attribute(
            "founder",
            w.PERSON,
            (
                "{n} was founded by {v} after many years of hard work.",
                "It was {v} who founded {n} with the savings of a lifetime.",
                "The founder of {n} is known in the trade by the name of {v}.",
            ),
            ("Who founded {n}?", "What is the name of the founder of {n}?"),
        ),
        Attribute(
            "city",
            w.CITY,
            (
                "The main office of {n} is in the middle of {v}.",
                "{n} has had its main office in {v} for a long time.",
                "Visitors who come to see {n} have to travel to {v}.",
            ),
            ("In which city is the main office of {n}?", "Where is the main office of {n}?"),
        ),
        Attribute(
            "year",
            w.YEAR,
            (
                "{n} opened its doors for the very first time in {v}.",
                "The first office of {n} was opened in the year {v}.",
                "Since the year {v} {n} has been open for business.",
            ),
            ("In which year did {n} open?", "When was {n} opened?"),
        ),
        Attribute(
            "goods",
            w.GOODS,
            (
                "Most of the money that {n} makes comes from selling {v}.",
                "{n} buys and sells {v} in several parts of the world.",
                "People in the trade know {n} best for its {v}.",
            ),
            ("What does {n} sell?", "Which goods does {n} sell?"),
        ),
        Attribute(
            "staff",
            w.NUMBER,
            (
                "At the last count {n} had a staff of {v} people.",
                "There are {v} people who work for {n} every day.",
                "{n} pays wages to {v} people at the end of each month.",
            ),
            ("How many people work for {n}?", "What is the number of people who work for {n}?"),
        ),
        Attribute(
            "sign",
            w.ANIMAL,
            (
                "The sign above the door of {n} shows a large {v}.",
                "On every letter that {n} sends there is a small {v}.",
                "A {v} has always been the sign of {n}.",
            ),
            ("Which animal is on the sign of {n}?", "What animal does {n} have as its sign?"),
        ),
    ),
    (
        "The last few years were not easy for anyone in the trade.",
        "A new report about the market is expected before the summer.",
        "Nobody at {n} wanted to talk to the press about the rumours.",
        "Prices have gone up a little, and so have the wages.",
        "The bank has promised to look at the matter again next week.",
    ),
)
