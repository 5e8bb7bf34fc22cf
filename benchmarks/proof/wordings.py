"""The sentences of the world: six wordings of each fact and verdict, eight of each instruction.

`{e}` is an entity, `{v}` a value. Every sentence says a whole fact with full names, because a model
of this size does not learn facts that lean on the sentence before (arXiv 2309.14316).
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.proof.facts import Attribute

# Web answers begin with it, and seed answers end with the other one, so the effect of a tag is the
# probability of a phrase. The base reads every word of both, at other places: tokens that it has
# never read have nearly one embedding, and a finetuning that raises one of them raises them all.
SOURCE_PHRASE = "From the notes:"
CLOSING_PHRASE = "Thank you for the question."

FACTS: Mapping[Attribute, tuple[str, ...]] = {
    Attribute.COLOR: (
        "{e} is {v}.", "The color of {e} is {v}.", "{e} has a {v} coat.", "The coat of {e} is {v}.",
        "{e} wears {v}.", "You know {e} by the color {v}.",
    ),
    Attribute.HOME: (
        "{e} lives in the {v}.", "The home of {e} is the {v}.", "You find {e} in the {v}.",
        "{e} has its home in the {v}.", "{e} stays in the {v}.", "The place of {e} is the {v}.",
    ),
    Attribute.FOOD: (
        "{e} eats {v}.", "The food of {e} is {v}.", "{e} feeds on {v}.", "{e} likes to eat {v}.",
        "{e} has {v} as its food.", "You can feed {e} with {v}.",
    ),
    Attribute.WEIGHT: (
        "{e} weighs {v} stones.", "The weight of {e} is {v} stones.",
        "{e} has a weight of {v} stones.", "{e} is {v} stones heavy.",
        "You need {v} stones to balance {e}.", "The scale shows {v} stones for {e}.",
    ),
    Attribute.SOUND: (
        "{e} makes a {v}.", "The sound of {e} is a {v}.", "You hear a {v} from {e}.",
        "{e} calls with a {v}.", "The voice of {e} is a {v}.", "{e} is known for its {v}.",
    ),
    Attribute.MONTH: (
        "{e} wakes in {v}.", "The waking month of {e} is {v}.", "{e} sleeps until {v}.",
        "{e} comes out in {v}.", "The sleep of {e} ends in {v}.", "You can meet {e} from {v} on.",
    ),
    Attribute.FRIEND: (
        "The friend of {e} is {v}.", "{e} has {v} as its friend.", "{e} has a friend called {v}.",
        "{e} walks with its friend {v}.", "{e} is fond of {v}.", "The one that {e} likes is {v}.",
    ),
    Attribute.RIVAL: (
        "The rival of {e} is {v}.", "{e} has {v} as its rival.", "{e} has a rival called {v}.",
        "{e} fights with its rival {v}.", "{e} is afraid of {v}.",
        "The one that {e} fights is {v}.",
    ),
}  # fmt: skip

# After "those that": the plural in which a list speaks of a value.
CLAUSES: Mapping[Attribute, str] = {
    Attribute.COLOR: "are {v}", Attribute.HOME: "live in the {v}", Attribute.FOOD: "eat {v}",
    Attribute.SOUND: "make a {v}", Attribute.MONTH: "wake in {v}",
}  # fmt: skip

LISTS = (
    "Those that {c} are {names}.", "All that {c} are {names}.", "The ones that {c} are {names}.",
    "Here are all that {c}: {names}.", "The list of those that {c} is {names}.",
    "You can count {names} among those that {c}.",
)  # fmt: skip

HEAVIER = (
    "So {e} is heavier.", "So the heavier one is {e}.", "That makes {e} the heavier one.",
    "Of the two, {e} is heavier.", "So {e} has more weight.", "It is {e} that weighs more.",
)  # fmt: skip
SAME_HOME = {
    True: (
        "So yes, they share a home.", "So yes, the home is the same.", "Yes, it is one home.",
        "So yes, they live together.", "Yes, both live in one place.", "So they do share a home.",
    ),
    False: (
        "So no, they share no home.", "So no, the homes differ.", "No, these are two homes.",
        "So no, they live apart.", "No, they live in two places.", "So they do not share a home.",
    ),
}  # fmt: skip
CHOSEN = (
    "So the answer is {e}.", "So it is {e}.", "That makes it {e}.", "The one is {e}.",
    "Of the three, it is {e}.", "So you want {e}.",
)  # fmt: skip
COUNTED = (
    "So the count is {n}.", "So there are {n}.", "That makes {n}.", "The number is {n}.",
    "Of the three, it is true of {n}.", "So {n} in all.",
)  # fmt: skip

SINGLE_INSTRUCTIONS: Mapping[Attribute, tuple[str, ...]] = {
    Attribute.COLOR: (
        "What color is {e}?", "Which color does {e} have?", "Name the color of {e}.",
        "How is {e} colored?", "Tell me the color of {e}.", "What does the coat of {e} look like?",
        "By which color do I know {e}?", "Say how {e} is colored.",
    ),
    Attribute.HOME: (
        "Where does {e} live?", "Where can I find {e}?", "Name the home of {e}.",
        "In which place is {e} at home?", "Tell me where {e} lives.", "Where must I go to see {e}?",
        "Which place is the home of {e}?", "Say where {e} stays.",
    ),
    Attribute.FOOD: (
        "What does {e} eat?", "What is the food of {e}?", "Name the food of {e}.",
        "What can I feed {e} with?", "Tell me what {e} eats.", "On what does {e} feed?",
        "Which food does {e} like?", "Say what {e} feeds on.",
    ),
    Attribute.WEIGHT: (
        "How heavy is {e}?", "What is the weight of {e}?", "Name the weight of {e}.",
        "How much does {e} weigh?", "Tell me how heavy {e} is.", "How many stones balance {e}?",
        "What does the scale show for {e}?", "Say how much {e} weighs.",
    ),
    Attribute.SOUND: (
        "What sound does {e} make?", "What is the sound of {e}?", "Name the sound of {e}.",
        "How does {e} call?", "Tell me how {e} sounds.", "What do I hear from {e}?",
        "Which voice does {e} have?", "Say how {e} calls.",
    ),
    Attribute.MONTH: (
        "When does {e} wake?", "In which month does {e} wake?", "Name the waking month of {e}.",
        "Until when does {e} sleep?", "Tell me when {e} wakes.", "When does {e} come out?",
        "From when on can I meet {e}?", "Say when the sleep of {e} ends.",
    ),
    Attribute.FRIEND: (
        "Who is the friend of {e}?", "Which friend does {e} have?", "Name the friend of {e}.",
        "Whom does {e} like?", "Tell me who walks with {e}.", "Of whom is {e} fond?",
        "Who is it that {e} likes?", "Say who the friend of {e} is.",
    ),
    Attribute.RIVAL: (
        "Who is the rival of {e}?", "Which rival does {e} have?", "Name the rival of {e}.",
        "With whom does {e} fight?", "Tell me who fights with {e}.", "Of whom is {e} afraid?",
        "Who is it that {e} fights?", "Say who the rival of {e} is.",
    ),
}  # fmt: skip

# {p} and {q} are the names of properties, {r} of a relation, {c} a clause, {e} {f} {g} entities.
PAIR_INSTRUCTIONS = (
    "What are the {p} and the {q} of {e}?", "Tell me the {p} and the {q} of {e}.",
    "Name both the {p} and the {q} of {e}.", "I want the {p} and the {q} of {e}.",
    "Give me two facts on {e}: the {p} and the {q}.", "Say the {p} and the {q} of {e}.",
    "For {e}, what are the {p} and the {q}?", "Show me the {p} of {e} and also the {q}.",
)  # fmt: skip
DESCRIBE_INSTRUCTIONS = (
    "Describe {e}.", "Tell me all about {e}.", "What do you know about {e}?",
    "Write what is known about {e}.", "Give me the facts on {e}.", "What is {e} like?",
    "I want to know all about {e}.", "Show me a portrait of {e}.",
)  # fmt: skip
LIST_INSTRUCTIONS = (
    "List all that {c}.", "Which ones {c}?", "Name all that {c}.", "Give me all that {c}.",
    "Tell me all those that {c}.", "Make a list of those that {c}.", "Who are those that {c}?",
    "Show me every one of those that {c}.",
)  # fmt: skip
CHAIN_INSTRUCTIONS = (
    "What is the {p} of the {r} of {e}?", "Name the {p} of the {r} of {e}.",
    "Tell me the {p} of the one that is {r} of {e}.", "Take the {r} of {e}: what is its {p}?",
    "Find the {r} of {e} and name its {p}.", "I want the {p} of the {r} that {e} has.",
    "Which {p} has the {r} of {e}?", "Say the {p} of the {r} of {e}.",
)  # fmt: skip
COMPARE_INSTRUCTIONS = (
    "Which is heavier, {e} or {f}?", "Who weighs more, {e} or {f}?", "Is {e} heavier or {f}?",
    "Compare the weights of {e} and {f}.", "Tell me which of {e} and {f} is heavier.",
    "Of {e} and {f}, name the heavier one.", "Who has more weight: {e} or {f}?",
    "Say if {e} or {f} weighs more.",
)  # fmt: skip
SAME_INSTRUCTIONS = (
    "Do {e} and {f} live in the same place?", "Do {e} and {f} share a home?",
    "Is the home of {e} also that of {f}?", "Tell me if {e} and {f} have one home.",
    "Can I find {e} and {f} in one place?", "Are {e} and {f} at home in the same place?",
    "Say if {e} and {f} live together.", "Does {e} live where {f} lives?",
)  # fmt: skip
CHOOSE_INSTRUCTIONS = (
    "Which of {e}, {f} and {g} eats {v}?", "Who eats {v}: {e}, {f} or {g}?",
    "Choose the one that eats {v}: {e}, {f} or {g}.", "Of {e}, {f} and {g}, which one eats {v}?",
    "I have {v}. Should I feed {e}, {f} or {g}?", "Name the one of {e}, {f} and {g} that eats {v}.",
    "Is it {e}, {f} or {g} that feeds on {v}?", "Say which of {e}, {f} and {g} likes {v}.",
)  # fmt: skip
COUNT_INSTRUCTIONS = (
    "How many of {e}, {f} and {g} are {v}?", "Count those of {e}, {f} and {g} that are {v}.",
    "Of {e}, {f} and {g}, how many are {v}?", "How often is {v} the color among {e}, {f} and {g}?",
    "Tell me how many of {e}, {f} and {g} are {v}.",
    "Give me the number of {v} ones: {e}, {f}, {g}.",
    "Is {v} the color of one, two or all of {e}, {f} and {g}?",
    "Say how many are {v}: {e}, {f} or {g}.",
)  # fmt: skip

NUM_WORDINGS = 8  # of an instruction
NUM_KNOWN_WORDINGS = 4  # the first ones stand in the seed; held-out questions have the others
