"""Files of people."""

from __future__ import annotations

from ctxcompress_integrations.training.world import words as w
from ctxcompress_integrations.training.world.kinds import Attribute, Domain

STAFF = Domain(
    "staff",
    "the person",
    (
        Attribute(
            "job",
            w.JOB,
            (
                "Before joining us {n} worked as a {v} for a while.",
                "By training {n} is a {v}, and a very good one.",
                "{n} learned the work of a {v} from an uncle.",
            ),
            ("What is the job of {n}?", "As what did {n} work?"),
        ),
        Attribute(
            "home",
            w.CITY,
            (
                "{n} grew up in {v}, where the family still lives.",
                "The home town of {n} has always been {v}.",
                "At weekends {n} takes the train home to {v}.",
            ),
            ("Where did {n} grow up?", "What is the home town of {n}?"),
        ),
        Attribute(
            "born",
            w.YEAR,
            (
                "{n} was born in the spring of {v}.",
                "According to the file {n} was born in {v}.",
                "The year in which {n} was born is {v}.",
            ),
            ("In which year was {n} born?", "When was {n} born?"),
        ),
        Attribute(
            "pet",
            w.ANIMAL,
            (
                "At home {n} keeps a {v} that everybody likes.",
                "The only pet that {n} ever had is a {v}.",
                "Every morning {n} has to feed a hungry {v}.",
            ),
            ("Which pet does {n} have?", "What animal does {n} keep?"),
        ),
        Attribute(
            "instrument",
            w.INSTRUMENT,
            (
                "In the evenings {n} likes to play the {v}.",
                "{n} has played the {v} since the age of six.",
                "Neighbours can hear {n} practise on the {v}.",
            ),
            ("Which instrument does {n} play?", "What does {n} like to play?"),
        ),
        Attribute(
            "boss",
            w.PERSON,
            (
                "In all matters of work {n} answers to {v}.",
                "The boss of {n} in this house is {v}.",
                "{n} shares an office with {v}, who is also the boss.",
            ),
            ("Who is the boss of {n}?", "To whom does {n} answer?"),
        ),
    ),
    (
        "The files of this department are kept for ten years.",
        "Holidays have to be agreed on at least a month before.",
        "Everyone says that it is easy to get along with {n}.",
        "A photograph for the new pass is still missing.",
        "The next round of talks is planned for the end of the year.",
    ),
)
