"""What the documents of the small world speak of: domains, their attributes, and the sentences that say them.

``{n}`` stands for the name, ``{v}`` for the value. A statement takes 9 to 16 tokens, so that a document of four to
seven of them has the length of a passage and its facts stand apart.
"""

from __future__ import annotations

from typing import NamedTuple

from ctxcompress_integrations.training.world import words as w


class Attribute(NamedTuple):
    """What can be said and asked of an entity.

    Attributes:
        values: of which a fact takes one, all equally likely.
        statements: with ``{n}`` and ``{v}``.
        questions: with ``{n}``.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


class Domain(NamedTuple):
    """One kind of document.

    Attributes:
        alias: what a document about one entity may call it after its first mention; None for its name alone.
        distractors: sentences without a fact; ``{n}`` may stand in them.
        is_trained: False for a domain that shipped weights have never seen.
    """

    name: str
    alias: str | None
    attributes: tuple[Attribute, ...]
    distractors: tuple[str, ...]
    is_trained: bool = True


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

DOMAINS = {domain.name: domain for domain in (COMPANIES, PRODUCTS, INCIDENTS, STAFF, VILLAGES, SHIPS)}
TRAINED = tuple(name for name, domain in DOMAINS.items() if domain.is_trained)
HELD_OUT = tuple(name for name, domain in DOMAINS.items() if not domain.is_trained)
