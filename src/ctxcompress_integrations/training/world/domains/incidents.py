"""Entries of an event log."""

from __future__ import annotations

from ctxcompress_integrations.training.world import words as w
from ctxcompress_integrations.training.world.kinds import Attribute, Domain

INCIDENTS = Domain(
    "incidents",
    None,
    (
        Attribute(
            "witness",
            w.PERSON,
            (
                "Case {n} was reported by {v}, who called at once.",
                "The call about case {n} came in from {v}.",
                "It was {v} who noticed case {n} and wrote it down.",
            ),
            ("Who reported case {n}?", "Who noticed case {n}?"),
        ),
        Attribute(
            "room",
            w.ROOM,
            (
                "Case {n} began in the {v} shortly after midnight.",
                "The place of case {n} was found to be the {v}.",
                "All traces of case {n} lead back to the {v}.",
            ),
            ("Where did case {n} begin?", "In which place did case {n} begin?"),
        ),
        Attribute(
            "cause",
            w.CAUSE,
            (
                "After a long search the cause of case {n} was given as {v}.",
                "Experts agree that case {n} was caused by {v}.",
                "There is no doubt that {v} was behind case {n}.",
            ),
            ("What caused case {n}?", "What was the cause of case {n}?"),
        ),
        Attribute(
            "part",
            w.TOOL,
            (
                "To close case {n} the team had to replace a {v}.",
                "The only thing damaged in case {n} was the {v}.",
                "A broken {v} was carried away because of case {n}.",
            ),
            ("Which thing was damaged in case {n}?", "What had to be replaced in case {n}?"),
        ),
        Attribute(
            "minutes",
            w.NUMBER,
            (
                "It took {v} minutes until case {n} was under control.",
                "Case {n} lasted for {v} minutes from start to end.",
                "After {v} minutes the work on case {n} was done.",
            ),
            ("How many minutes did case {n} last?", "How many minutes did case {n} take?"),
        ),
        Attribute(
            "goods",
            w.GOODS,
            (
                "A large store of {v} was lost in case {n}.",
                "Because of case {n} all the {v} had to be thrown away.",
                "The owner lost most of the {v} through case {n}.",
            ),
            ("Which goods were lost in case {n}?", "What was lost in case {n}?"),
        ),
    ),
    (
        "The night shift went on with its work as usual.",
        "A copy of this entry was sent to the insurance people.",
        "No one was hurt, and the alarm was soon turned off.",
        "Those who worked on case {n} were thanked for their efforts.",
        "The form was signed and put away with the others.",
    ),
)
