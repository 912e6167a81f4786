"""What people say to the small model besides its pictures: intents, each with one answer and many ways to ask.

Data only. Answers are lower case, without punctuation and at most seven words, so that they can be said word by word
in a spoken answer. `held_out` ways of asking are never trained on: they measure whether an intent was understood or a
sentence learnt by heart. `language.SMALL_TALK` is `by_answer(trained=True)`.
"""

from dataclasses import dataclass

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Intent:
    """`asked` is trained on, `held_out` is for evaluation; no sentence is in both, nor in two intents."""

    answer: str
    asked: tuple[str, ...]
    held_out: tuple[str, ...]


def _intent(answer: str, asked: str, held_out: str) -> Intent:
    """Ways of asking are separated by `|`."""
    return Intent(answer, _split(asked), _split(held_out))


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|"))


_TALK = (
    _intent("hello", "hello | hello there | hi | hi there | hey", "hey there | hello you"),
    _intent("good morning", "good morning | a very good morning", "good morning to you"),
    _intent("good evening", "good evening | a very good evening", "good evening to you"),
    _intent("good night", "good night | sleep well", "good night to you"),
    _intent("goodbye", "goodbye | bye | bye bye | see you later", "goodbye to you | hello and goodbye"),
    _intent("you are welcome", "thank you | thanks | thank you very much", "many thanks | thanks very much"),
    _intent(
        "i am fine thank you", "how are you | how are you today | how do you do", "are you well | tell me how you are"
    ),
    _intent("my name is unmask", "what is your name | who are you | tell me your name", "what name do you go by"),
    _intent("i can see hear speak and draw", "what can you do | what are you able to do", "tell me what you can do"),
    _intent("yes i can see", "can you see | are you able to see", "do you see"),
    _intent("yes i can hear you", "can you hear me | do you hear me", "are you able to hear me"),
    _intent("yes i can speak", "can you speak | can you talk", "are you able to speak"),
    _intent("yes i can draw", "can you draw | can you draw pictures", "are you able to draw"),
    _intent("yes i can count", "can you count | are you able to count", "tell me can you count"),
    _intent("no i can not sing", "can you sing | can you sing a song", "are you able to sing"),
    _intent("i am a small model", "what are you | are you a model", "tell me what you are"),
    _intent("no i am a model", "are you human | are you a person", "are you a human person"),
    _intent("i am new", "how old are you | what is your age", "tell me your age"),
    _intent("i live in a computer", "where are you | where do you live", "tell me where you live"),
    _intent("i like blue", "what color do you like | which color do you like best", "tell me a color you like"),
    _intent("i like stars", "what shape do you like | which shape do you like best", "tell me a shape you like"),
    _intent("yes please", "shall i draw | shall i go on | shall we draw", "shall we go on"),
    _intent("i am sorry", "that is wrong | you are wrong | that was wrong", "no that is not right"),
    _intent("i am glad", "that is right | well done | very good", "that was very good"),
    _intent("nice to meet you", "nice to meet you | my name is sam", "very nice to meet you"),
    _intent("ask me for a picture", "help | help me | what can i say", "what can i ask you"),
    _intent("one two three", "count to three | please count to three", "can you count to three"),
    _intent("one two three four", "count to four | please count to four", "can you count to four"),
    _intent("one two three four five", "count to five | please count to five", "can you count to five"),
    _intent("three two one", "count down from three | count back from three", "please count down from three"),
    _intent("five four three two one", "count down from five | count back from five", "please count down from five"),
    _intent("two four six", "count by two | count in twos", "please count in twos"),
)

# Thing -> its colour: `what color is the sky`.
_COLORED = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "the night": "black",
    "a lemon": "yellow", "a tomato": "red", "an orange": "orange", "the sea": "blue", "a leaf": "green",
    "a pig": "pink", "wood": "brown",
}  # fmt: skip
# Thing -> its shape: `what shape is a ball`.
_SHAPED = {
    "a ball": "circle", "a coin": "circle", "a wheel": "circle", "the moon": "circle", "a box": "square",
    "a tent": "triangle", "a kite": "diamond",
}  # fmt: skip
# Shape -> its sides or points.
_SIDES = {"a square": ("four", "sides"), "a triangle": ("three", "sides"), "a diamond": ("four", "sides")}
_POINTS = {"a star": ("five", "points"), "a circle": ("no", "corners")}
_OPPOSITES = (
    ("left", "right"), ("top", "bottom"), ("small", "large"), ("black", "white"), ("yes", "no"), ("day", "night"),
    ("up", "down"), ("above", "below"), ("old", "new"), ("good", "bad"),
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MIXTURES = (
    ("red", "yellow", "orange"),
    ("blue", "yellow", "green"),
    ("red", "blue", "purple"),
    ("red", "white", "pink"),
)


def _colored(thing: str, color: str) -> Intent:
    return _intent(
        f"{thing} is {color}",
        f"what color is {thing} | which color is {thing} | what is the color of {thing}",
        f"tell me the color of {thing}",
    )


def _shaped(thing: str, shape: str) -> Intent:
    return _intent(
        f"{thing} is a {shape}",
        f"what shape is {thing} | which shape is {thing} | what is the shape of {thing}",
        f"tell me the shape of {thing}",
    )


def _counted(shape: str, number: str, what: str) -> Intent:
    return _intent(
        f"{shape} has {number} {what}", f"how many {what} does {shape} have", f"how many {what} are there on {shape}"
    )


def _opposite(word: str, other: str) -> Intent:
    return _intent(
        other,
        f"what is the opposite of {word} | tell me the opposite of {word}",
        f"which is the opposite of {word}",
    )


def _day(i: int) -> tuple[Intent, Intent]:
    day, after, before = _DAYS[i], _DAYS[(i + 1) % 7], _DAYS[i - 1]
    return (
        _intent(after, f"what day comes after {day} | which day comes after {day}", f"tell me the day after {day}"),
        _intent(before, f"what day comes before {day} | which day comes before {day}", f"tell me the day before {day}"),
    )


def _sum(a: int, b: int) -> Intent:
    x, y = NUMBERS[a], NUMBERS[b]
    return _intent(
        NUMBERS[a + b], f"what is {x} plus {y} | how much is {x} plus {y} | add {x} and {y}", f"{x} plus {y} is what"
    )


def _mixture(a: str, b: str, mixed: str) -> Intent:
    return _intent(mixed, f"what do {a} and {b} make | mix {a} and {b}", f"which color do {a} and {b} make")


def _number_after(i: int) -> Intent:
    return _intent(
        NUMBERS[i + 1], f"what comes after {NUMBERS[i]} | which number comes after {NUMBERS[i]}",
        f"tell me the number after {NUMBERS[i]}",
    )  # fmt: skip


INTENTS: tuple[Intent, ...] = (
    *_TALK,
    *(_colored(*item) for item in _COLORED.items()),
    *(_shaped(*item) for item in _SHAPED.items()),
    *(_counted(shape, *count) for shape, count in (_SIDES | _POINTS).items()),
    *(_opposite(*pair) for both in _OPPOSITES for pair in (both, both[::-1])),
    *(intent for i in range(7) for intent in _day(i)),
    *(_sum(a, b) for a in range(1, 6) for b in range(1, 6)),
    *(_mixture(*colors) for colors in _MIXTURES),
    *(_number_after(i) for i in range(10)),
    _intent("seven", "how many days are in a week | how many days does a week have", "count the days of a week"),
    _intent("sunday", "what is the last day of the week | which day ends the week", "tell me the last day of the week"),
    _intent(
        "monday", "what is the first day of the week | which day starts the week", "name the first day of the week"
    ),
)


def by_answer(trained: bool) -> dict[str, tuple[str, ...]]:
    """Answer -> ways of asking for it over all intents: those of the training, or the held-out ones."""
    table: dict[str, list[str]] = {}
    for intent in INTENTS:
        table.setdefault(intent.answer, []).extend(intent.asked if trained else intent.held_out)
    return {answer: tuple(asked) for answer, asked in table.items()}


def words(trained: bool = True) -> set[str]:
    """The lexicon of all answers and all ways of asking."""
    table = by_answer(trained)
    return {word for answer, asked in table.items() for text in (answer, *asked) for word in text.split()}
