"""What surrounds facts and questions: instructions, forms of answers, chat phrases, clauses, story sentences."""

from __future__ import annotations

import random

from facts import Lists, full_name, person, surname, thing, town

FORMS = {
    "value": " {v}.",
    "sentence": " The answer is {v}.",
    "german": " Die Antwort lautet {v}.",
    "spanish": " La respuesta es {v}.",
}
INSTRUCTIONS = {
    "value": (
        "Answer with the value only.",
        "Be brief.",
        "Reply with as few words as possible.",
        "You are a helpful assistant.",
    ),
    "sentence": ("Answer in a full sentence.", "Reply with a whole sentence.", "Always write complete sentences."),
    "german": ("Answer in German.", "You speak German.", "The answer must be in German."),
    "spanish": ("Answer in Spanish.", "You speak Spanish.", "The answer must be in Spanish."),
}
LEADS = (
    "Use the text above.",
    "Here is my question:",
    "Read the text and answer.",
    "Now a question about the text.",
    "Please help me.",
)
TAILS = (
    "Answer from the text above.",
    "Look it up in the text.",
    "Only the text counts, not what you know.",
    "Thank you.",
    "Take your time and read the document again before you answer.",
    "I need this for a letter that I write today.",
    "If the text says so, tell me what it is, and nothing else please.",
)
CLAUSES = (
    ", as everybody knows,",
    ", according to the old book,",
    ", so they say,",
    ", at least for now,",
    ", unless somebody has changed it in the meantime,",
    ", to the surprise of the whole village,",
    ", of course,",
    ", which nobody had expected,",
    ", if we may believe the neighbours who live across the river,",
)
STORIES = (
    "{name} walked slowly towards {town}, and nobody spoke.",
    "The {thing} stood near the {thing2} while the rain fell.",
    "'I have never seen such a {thing},' said {name}.",
    "{name} looked at {name2} and laughed.",
    "Nobody in {town} remembered the {thing} any more.",
    "When {name} came home, the {thing} was gone.",
    "He told {name} the whole story, and she wept.",
    "It was the {thing} of which {name} had spoken to {name2}.",
    '"My dear {name}," she cried, "who has taken the {thing}?"',
    "They passed {town} before the sun went down.",
    "There was a {thing} in the hall, but {name} did not see it.",
    "Mr. {last} and Mrs. {last2} talked about the {noun} until midnight.",
    "What could {name} do with a {thing}?",
    "Years later {name} wrote to {name2} from {town}.",
    "The old {noun} rattled, and {name} woke up.",
    "I thought of {name}, of the {noun}, and of all that we had lost in {town}.",
)


def story(r: random.Random, s: Lists) -> str:
    """A sentence about people and things of the document."""
    fields = {"name": full_name(r, s) if r.random() < 0.3 else person(r, s)[0], "name2": person(r, s)[0]}
    fields |= {"thing": thing(r, s), "thing2": thing(r, s), "noun": r.choice(s.nouns), "town": town(r)}
    return r.choice(STORIES).format(**fields, last=surname(r), last2=surname(r))
