"""Instruction templates of the digits tasks: several wordings of each question, each in several frames."""

_FRAMES = ("{}", "question : {} answer :", "look at the picture . {}", "{} short answer :")
_ORDERS = ("{}", "{} :", "look at the picture . {}", "please {}")

_QUESTIONS = {
    "digit_at": (
        "which digit is {place} ?",
        "what digit is at the {place} ?",
        "what is the digit in the {place} cell ?",
        "{place} : which digit is there ?",
    ),
    "colour_at": (
        "which colour is {place} ?",
        "what colour is the digit at the {place} ?",
        "what is the colour of the {place} cell ?",
        "{place} : which colour is there ?",
    ),
    "where": (
        "where is the {name} ?",
        "in which cell is the {name} ?",
        "what is the place of the {name} ?",
        "the {name} : where is it ?",
    ),
    "count": (
        "how many {what} are there ?",
        "how many {what} are in the picture ?",
        "what is the number of {what} ?",
        "{what} : how many are there ?",
    ),
    "presence": (
        "is there a {name} ?",
        "is a {name} in the picture ?",
        "can you see a {name} ? yes or no ?",
        "a {name} : is it there ?",
    ),
    "choice": (
        "which of these is there : {options} ?",
        "which of these is in the picture ? {options} ?",
        "{options} : which can you see ?",
        "what is in the picture , {options} ?",
    ),
    "compare": (
        "which is the {which} , the {a} digit or the {b} digit ?",
        "{a} or {b} : which digit is the {which} ?",
        "of the {a} and the {b} digit , which colour is the {which} ?",
        "what is the colour of the {which} digit , {a} or {b} ?",
    ),
    "colour_of": (
        "which colour is the {digit} ?",
        "what colour is the digit {digit} ?",
        "what is the colour of the {digit} ?",
        "the {digit} : which colour is it ?",
    ),
    "digit_of": (
        "which digit is {colour} ?",
        "what is the {colour} digit ?",
    ),
    "extreme": (
        "which digit is the {which} ?",
        "what is the {which} digit in the picture ?",
    ),
    "extreme_colour": (
        "which colour is the {which} digit ?",
        "what is the colour of the {which} digit ?",
    ),
    "next_to": (
        "which digit is {side} of the {name} ?",
        "what is the digit to the {side} of the {name} ?",
    ),
}
_COMMANDS = {
    "caption": (
        "list all digits with place and colour",
        "write what is in each cell of the picture",
        "caption the picture with place , colour and digit of all cells",
        "what is where in the picture ?",
    ),
    "describe": (
        "describe the picture",
        "describe what you can see",
        "what can you see in the picture ?",
        "write a short caption of the picture",
    ),
    "read_row": (
        "read the {row} row",
        "read the digits in the {row} row from left to right",
        "list the digits of the {row} row",
        "what are the digits in the {row} row ?",
    ),
    "ask": (
        "ask a question with the answer {answer}",
        "write a question about the picture with the answer {answer}",
        "what is a question to the answer {answer} ?",
        "{answer} is the answer , what is the question ?",
    ),
    "read_column": (
        "read the {column} column",
        "read the digits in the {column} column from top to bottom",
    ),
}
TEMPLATES: dict[str, tuple[str, ...]] = {
    name: tuple(frame.replace("{}", wording) for wording in wordings for frame in frames)
    for table, frames in ((_QUESTIONS, _FRAMES), (_COMMANDS, _ORDERS))
    for name, wordings in table.items()
}
"""Set -> templates over the slots of its records. Evaluation uses the first one."""

PLAIN: dict[str, tuple[str, ...]] = {
    "caption": ("",),
    "describe": ("",),
    "digit_at": ("{place}",),
    "colour_at": ("{place}",),
    "where": ("{name}",),
    "count": ("{what}",),
    "presence": ("{name}",),
    "read_row": ("{row}",),
    "choice": ("{options}",),
    "compare": ("{which} {a} {b}",),
    "ask": ("{answer}",),
    "colour_of": ("{digit}",),
}
"""Set -> a template with only slot values: the bare input in the paper's multitask comparison (figure 4)."""
