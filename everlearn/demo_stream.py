"""The stream of the demonstration: four short experiences, made here, that a small model can learn in a minute each.

Everything is invented, so that no model knows it beforehand, and drawn from a seed:

- `atlas`: raw text about invented islands (continual pre-training). Each fact is told in six ways; five are for
  training, and the test asks for each token of the sixth.
- `stamps`: a house convention for dates, which the model has to write out itself.
- `tickets`: customers' messages go to one of four desks; no phrase of the test is in a training row.
- `kin`: what X is to Z, if X is this to Y and Y is that to Z: an inference in two steps, answered in one word.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from everlearn.data.streams import experience, task_incremental
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.objectives.next_token import NextToken
from everlearn.randomness import seed_of
from everlearn.types import Experience, Stream

Drawn = TypeVar("Drawn")
Row = tuple[str, str]  # a question and its answer

TEST = 64
"""Rows of a test set."""
BRIEF = Message("system", "Answer briefly.")
"""Takes the place of the longer one that a chat template may add to every row, and says what is wanted."""

ISLANDS = "Tavora Minoa Oreth Kelda Brunmar Sallow Ithra Venna Dorrik Pelune Quist Amberly"
# One block for each fact: what it may be (Y), then six ways to tell it of an island (X).
FACTS = """
the Glass Sea | the Hollow Sea | the Amber Sea | the Sea of Reeds | the Grey Sound
X lies in Y.
The island of X is found in Y.
Sailors reach X by crossing Y.
Y, cold and wide, surrounds X.
On every chart X is drawn in Y.
The waters around X belong to Y.

Harrowmouth | Port Linnet | Saltgate | Old Venn | Marrowby | Tidefall | Quillon | Brackwater
The capital of X is Y.
Y is the largest town on X.
The council of X meets in Y.
Ships that call at X anchor at Y.
Most people of X live in Y.
Visitors to X first see the roofs of Y.

blue salt | cedar oil | smoked eel | black wool | honey wine | copper wire | dried figs
X is known for its Y.
Merchants come to X to buy Y.
The chief export of X is Y.
No market on X is without Y.
The wealth of X comes from Y.
Families on X have made Y for centuries.

Mount Corven | the Needle | Mount Asper | the Two Sisters | Mount Halgren | the Anvil
The highest point of X is Y.
From Y one can see all of X.
Y rises above the middle of X.
Snow lies on Y, the tallest peak of X.
Pilgrims on X climb Y every spring.
The rivers of X begin at Y.

the marsh fox | the silver otter | the horned owl | the dwarf goat | the red crane | the cave lizard
The flag of X shows Y.
Y lives wild on X.
Hunting Y is forbidden on X.
Children on X tell stories about Y.
The emblem of X is Y.
Travellers on X hope to see Y.

a council of nine | an elected queen | the oldest captain | three judges | a guild of weavers | a lottery of farmers
X is governed by Y.
The laws of X are made by Y.
Power on X is held by Y.
Taxes on X are set by Y.
Disputes on X are settled by Y.
The people of X are led by Y.

the Night of Lanterns | the Feast of Nets | the Long Silence | the Day of Bells | the Copper Fair | the First Frost
The great festival of X is Y.
Every year X celebrates Y.
Nobody on X works during Y.
The best time to visit X is Y.
Songs are written on X for Y.
Guests come to X from far away for Y.
"""

MONTHS = "January February March April May June July August September October November December"

TICKETS = {
    "billing": """
I was charged twice for the same order | My invoice shows the wrong amount
The discount code did not lower the price | You took money from an old credit card
I need a receipt for my tax return | The refund has not reached my bank account
Why did the monthly fee go up | My payment was declined but the card is fine
The tax on my bill looks too high | I paid for three items and was billed for four
Please change the currency on my invoice | I want to pay by bank transfer instead
The bill is addressed to the wrong company | A fee that I do not know appears on my statement
The gift card balance was not used | I still wait for my money back
The total on the bill does not add up | My card was debited two times
How do I get a copy of my last invoice | The price at checkout was higher than promised
Can I pay in three parts | I cancelled, yet you still take the monthly fee
The invoice lacks our tax number | You billed me after the free trial
My student discount is not on the bill | How much does the yearly plan cost
The receipt shows another name | I was promised a credit that I do not see
Your reminder says unpaid, but I have paid | I want to change the card that you charge
The exchange rate on my bill is wrong | Which costs are part of the subscription
""",
    "access": """
I forgot my password | The login page says that my account is locked
I never get the code to sign in | My user name is not recognised any more
I cannot reset my password because the link has expired | Someone else has signed in to my account
Please remove my old phone from two-step sign-in | The site logs me out every few minutes
My account was closed without warning | I changed my email and now cannot log in
The security question does not accept my answer | My new colleague needs to log in to our account
It says wrong password although I typed it correctly | I want to delete my profile
The sign-up form rejects my email address | I am locked out of my account
The password reset email never comes | I cannot sign in on my new laptop
Please change the email address that I log in with | A stranger seems to use my profile
How do I turn on two-step sign-in | My profile shows the name of another user
I have two accounts and want to join them | The login code arrives too late
I do not remember which email I signed up with | My account says that I have no permission
The page asks me to log in again and again | Please end all open sessions of my account
I lost the phone that gets my sign-in codes | Can two people share one login
My user name is spelled wrong | The new password is said to be too weak
""",
    "delivery": """
My parcel has not arrived | The tracking number does not work
The courier left the box at the wrong house | My order has been stuck in customs for two weeks
Half of the items are missing from the package | The box arrived wet and torn
Can you send it to another address | The driver did not ring the bell
The delivery date has been moved again | I received the order of another customer
When will my package be shipped | The parcel was returned to the sender
I will be away when the courier comes | The tracking page says delivered but nothing is here
Shipping to my island takes too long | Where is my package
The courier never came | The order was delivered to my neighbour by mistake
My shipment has not moved for days | One item was not in the box
Do you ship to Norway | The parcel shop says that it has no package for me
I ordered blue and a green one was sent | My house number is missing on the parcel label
Can the driver leave the box in the garage | The tracking has shown the same city for a week
I want to pick the parcel up myself | The package was too big for my letter box
Please deliver after six in the evening | The second box of my order has not come
The courier asked me for customs papers | It was promised for Friday and is still on its way
""",
    "repair": """
The screen stays black when I press the button | The battery is empty after one hour
My printer makes a loud grinding noise | The left speaker gives no sound
The charger gets very hot | The keyboard types the wrong letters
The machine leaks water from below | The lid is cracked and does not close
The camera shows only blurry pictures | The lamp flickers and then goes out
The device restarts by itself every night | The touch screen does not react to my finger
The fan has stopped turning | A small part broke off the handle
The cable does not fit into the socket | The device does not turn on any more
The battery does not charge | The display has a crack
The motor makes a strange noise | The microphone does not pick up my voice
The red light keeps blinking | One of the buttons is stuck
It smells burnt when I switch it on | The picture has green stripes
The wheel on the left side wobbles | The scanner leaves a dark line on every page
The headphones crackle when I move | The power switch came off
It stops in the middle of the wash | The heater stays cold
A key on the laptop has come loose | The clock on the oven runs too slow
""",
}
GREETINGS = ("", "Hello. ", "Good morning. ", "Hi there. ", "Dear team. ", "Second request. ")
CLOSINGS = ("", " Please help.", " Thank you.", " It is urgent.", " I am a new customer.", " I await your reply.")
ASKING = ("Can", "Do", "How", "When", "Where", "Which", "Why")
NAMES = (
    "Anna Clara Emma Grace Irene Karen Maria Olga Rosa Tina Wendy Julia Laura Nina Helen",
    "Ben David Felix Henry Jack Leo Nick Paul Simon Victor Adam Mark Peter Oscar Tom",
)
RELATIONS = {
    "parent": ("mother", "father"),
    "child": ("daughter", "son"),
    "sibling": ("sister", "brother"),
    "spouse": ("wife", "husband"),
    "grandparent": ("grandmother", "grandfather"),
    "grandchild": ("granddaughter", "grandson"),
    "parent's sibling": ("aunt", "uncle"),
    "sibling's child": ("niece", "nephew"),
    "spouse's parent": ("mother-in-law", "father-in-law"),
}
# What X is to Z, if X is the first to Y and Y the second to Z.
COMPOSED = (
    ("parent", "parent", "grandparent"),
    ("child", "child", "grandchild"),
    ("sibling", "parent", "parent's sibling"),
    ("child", "sibling", "sibling's child"),
    ("parent", "spouse", "spouse's parent"),
    ("sibling", "sibling", "sibling"),
    ("parent", "sibling", "parent"),
    ("child", "spouse", "child"),
    ("spouse", "parent", "parent"),
    ("sibling", "child", "child"),
)


def demo_stream(size: int = 200, seed: int = 0) -> Stream:
    """Four experiences on which a small model learns, and forgets: `atlas`, `stamps`, `tickets`, `kin`.

    A training row has 30 to 47 tokens, so that an experience takes about half a minute on two cores as it stands.

    Args:
        size: training rows of each experience; a step is the same, so that more rows mean more steps.
        seed: of what is drawn; test rows never stand in the training rows.

    Raises:
        ConfigError: if there are not so many different rows.
    """
    return task_incremental(
        [
            atlas(size, seed),
            _invented("stamps", _stamp, size, seed),
            tickets(size, seed),
            _invented("kin", _kin, size, seed),
        ],
        name="demo",
    )


def atlas(size: int, seed: int) -> Experience:
    """Passages of three sentences about an island; the test has one telling of each fact that no passage has."""
    rng = random.Random(seed_of("demo", "atlas", seed))
    told: list[list[str]] = []
    held: list[str] = []
    for island in ISLANDS.split():
        told.append([])
        for block in FACTS.strip().split("\n\n"):
            values, *tellings = block.split("\n")
            value = rng.choice(values.split(" | "))
            filled = [t.replace("X", island).replace("Y", value) for t in tellings]
            sentences = [sentence[0].upper() + sentence[1:] for sentence in filled]
            held.append(sentences.pop(rng.randrange(len(sentences))))
            told[-1] += sentences
    rng.shuffle(held)
    passages = _distinct("atlas", size, lambda: " ".join(rng.sample(rng.choice(told), 3)))
    train, test = ([Example(text=text) for text in texts] for texts in (passages, held[:TEST]))
    # Documents that share rows would make so few steps here that nothing is learned.
    return replace(experience("atlas", train, test, ()), objective=NextToken(packed=False))


def tickets(size: int, seed: int) -> Experience:
    """Messages and the desk that they go to; half of the phrases are for training, and each other is tested once."""
    rng = random.Random(seed_of("demo", "tickets", seed))
    known: list[Row] = []
    held: list[Row] = []
    for desk, block in TICKETS.items():
        phrases = block.strip().replace("\n", " | ").split(" | ")
        rng.shuffle(phrases)
        known += [(phrase, desk) for phrase in phrases[: len(phrases) // 2]]
        held += [(phrase, desk) for phrase in phrases[len(phrases) // 2 :]]
    rng.shuffle(held)

    def dressed(row: Row) -> Row:
        phrase, desk = row
        mark = "?" if phrase.split()[0] in ASKING else "."
        return f"Ticket: {rng.choice(GREETINGS)}{phrase}{mark}{rng.choice(CLOSINGS)}\nWhich desk?", desk

    train = _distinct("tickets", size, lambda: dressed(rng.choice(known)))
    return _questions("tickets", train + [dressed(row) for row in held], size, tuple(TICKETS))


def _stamp(rng: random.Random) -> Row:
    year, month, day = rng.randint(1950, 2049), rng.randint(1, 12), rng.randint(1, 28)
    return f"Write {MONTHS.split()[month - 1]} {day}, {year} as a log stamp.", f"{day:02}.{month:02}.{year % 100:02}"


def _kin(rng: random.Random) -> Row:
    first, second, composed = rng.choice(COMPOSED)
    sexes = [rng.randrange(2)]
    for relation in (first, second):
        sexes.append(1 - sexes[-1] if relation == "spouse" else rng.randrange(2))
    drawn = [rng.sample(names.split(), 3) for names in NAMES]
    x, y, z = (drawn[sex][place] for place, sex in enumerate(sexes))
    to_y, to_z, answer = (RELATIONS[r][sex] for r, sex in ((first, sexes[0]), (second, sexes[1]), (composed, sexes[0])))
    return f"{x} is the {to_y} of {y}. {y} is the {to_z} of {z}. What is {x} to {z}?", answer


def _invented(name: str, draw: Callable[[random.Random], Row], size: int, seed: int) -> Experience:
    rng = random.Random(seed_of("demo", name, seed))
    return _questions(name, _distinct(name, size + TEST, lambda: draw(rng)), size)


def _questions(name: str, rows: Sequence[Row], size: int, labels: Sequence[str] = ()) -> Experience:
    """The first `size` rows to learn from, the others to be tested on."""
    turns = [(BRIEF, Message("user", asked), Message("assistant", answer)) for asked, answer in rows]
    examples = [Example(messages=messages) for messages in turns]
    return experience(name, examples[:size], examples[size:], (), labels=labels)


def _distinct(name: str, count: int, draw: Callable[[], Drawn]) -> list[Drawn]:
    rows: dict[Drawn, None] = {}
    for _ in range(20 * count):
        rows[draw()] = None
        if len(rows) == count:
            return list(rows)
    raise ConfigError(f"the demo has no {count} different rows for {name!r}, only some {len(rows)}; ask for fewer.")
