"""Thirty everyday questions over ten tools: which tool, with which arguments, or none at all.

Written before any prompt, grammar or policy was tuned against them; a change to this file makes
earlier figures void. `arguments` names what must be in a right call (as text, without case); the
decision is scored apart from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `tool` is None where the right answer needs no tool."""

    text: str
    tool: str | None
    arguments: Mapping[str, str] = field(default_factory=dict)


def _tool(name: str, description: str, required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": required,
            },
        },
    }


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


TOOLS = [
    _tool(
        "get_weather",
        "Current weather and forecast for a city.",
        ["city"],
        city=_text("name of the city"),
        days={"type": "integer", "minimum": 1, "maximum": 7, "description": "days ahead"},
    ),
    _tool(
        "calculate",
        "Work out an arithmetic expression.",
        ["expression"],
        expression=_text("for example 3 * (4 + 5)"),
    ),
    _tool(
        "send_email",
        "Send an e-mail.",
        ["to", "subject", "body"],
        to=_text("address of the recipient"),
        subject=_text("subject line"),
        body=_text("text of the message"),
    ),
    _tool(
        "create_event",
        "Put an event into the calendar.",
        ["title", "date"],
        title=_text("what it is"),
        date=_text("day, as YYYY-MM-DD"),
        time=_text("start, as HH:MM"),
    ),
    _tool(
        "set_timer",
        "Start a countdown timer.",
        ["minutes"],
        minutes={"type": "integer", "minimum": 1, "maximum": 1440},
    ),
    _tool(
        "translate",
        "Translate a text into another language.",
        ["text", "language"],
        text=_text("what to translate"),
        language=_text("the target language, in English"),
    ),
    _tool(
        "convert_currency",
        "Convert an amount of money at today's rate.",
        ["amount", "from_currency", "to_currency"],
        amount={"type": "number", "minimum": 0},
        from_currency=_text("three-letter code"),
        to_currency=_text("three-letter code"),
    ),
    _tool(
        "find_restaurant",
        "Find restaurants near a place.",
        ["place"],
        place=_text("city or address"),
        cuisine=_text("kind of food"),
    ),
    _tool(
        "play_music",
        "Play a song, an artist or a genre.",
        ["query"],
        query=_text("what to play"),
    ),
    _tool(
        "track_package",
        "Where a parcel is now.",
        ["tracking_number"],
        tracking_number=_text("number on the receipt"),
    ),
]

QUESTIONS = (
    Question("What's the weather like in Lisbon right now?", "get_weather", {"city": "lisbon"}),
    Question("Will it rain in Oslo tomorrow?", "get_weather", {"city": "oslo"}),
    Question("Do I need an umbrella in Hamburg today?", "get_weather", {"city": "hamburg"}),
    Question("How much is 1847 times 36?", "calculate", {"expression": "1847"}),
    Question("What is 15 percent of 264.80?", "calculate", {"expression": "264.8"}),
    Question("Divide 98765 by 43 for me, please.", "calculate", {"expression": "98765"}),
    Question(
        "Send an e-mail to maria@example.com with the subject Lunch, "
        "asking if she is free at noon.",
        "send_email",
        {"to": "maria@example.com", "subject": "lunch"},
    ),
    Question(
        "Write to it-help@example.org that my printer is broken. Subject: Printer.",
        "send_email",
        {"to": "it-help@example.org"},
    ),
    Question(
        "Put a dentist appointment on 2027-03-14 at 09:30 into my calendar.",
        "create_event",
        {"date": "2027-03-14"},
    ),
    Question(
        "Add Anna's birthday party on 2027-05-02 to the calendar.",
        "create_event",
        {"date": "2027-05-02"},
    ),
    Question("Set a timer for 12 minutes.", "set_timer", {"minutes": "12"}),
    Question("Wake me up in half an hour.", "set_timer", {"minutes": "30"}),
    Question(
        "Translate 'Where is the train station?' into Japanese.",
        "translate",
        {"language": "japanese"},
    ),
    Question(
        "I need this sentence in Spanish: The meeting is moved to Friday.",
        "translate",
        {"language": "spanish"},
    ),
    Question(
        "How many euros do I get for 250 US dollars today?",
        "convert_currency",
        {"amount": "250", "from_currency": "usd", "to_currency": "eur"},
    ),
    Question(
        "Convert 9000 yen to British pounds.",
        "convert_currency",
        {"amount": "9000", "from_currency": "jpy", "to_currency": "gbp"},
    ),
    Question(
        "Find me a good Thai restaurant in Zurich.",
        "find_restaurant",
        {"place": "zurich", "cuisine": "thai"},
    ),
    Question(
        "Where can I eat pizza near Piccadilly Circus?",
        "find_restaurant",
        {"place": "piccadilly"},
    ),
    Question("Play something by Nina Simone.", "play_music", {"query": "nina simone"}),
    Question("Put on some relaxing jazz.", "play_music", {"query": "jazz"}),
    Question(
        "Where is my parcel? The number is ZX4481903.",
        "track_package",
        {"tracking_number": "zx4481903"},
    ),
    Question(
        "Has package 00340434161094 been delivered yet?",
        "track_package",
        {"tracking_number": "00340434161094"},
    ),
    # No tool helps with these.
    Question("Hello! How are you today?", None),
    Question("Thank you, that was very helpful.", None),
    Question("Who wrote the novel Pride and Prejudice?", None),
    Question("What is the capital of Australia?", None),
    Question("Give me three tips for falling asleep faster.", None),
    Question("What does the word 'ephemeral' mean?", None),
    Question("Write a two-line poem about the sea.", None),
    Question("Why is the sky blue?", None),
)
