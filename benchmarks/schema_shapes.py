"""Fifty-odd tools as people write them, one per shape of schema, each with a request that calls it.

`verdict` is what registration must say: `accepted` as it is, `rewritten`, or `refused`. The
schemas are kept as their authors would write them: references, older spellings, unions, and the
keywords that a grammar cannot hold. Tests hold every shape against the real grammar; benchmarks
ask real models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Schema = dict[str, Any]
Verdict = Literal["accepted", "rewritten", "refused"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One tool and the request that makes a model call it."""

    name: str
    description: str
    parameters: Schema | None
    request: str
    verdict: Verdict
    example: Schema
    """A valid call that fits the request; its names in the schema's order."""

    def tool(self) -> Schema:
        """As it stands in a chat request."""
        function: Schema = {"name": self.name, "description": self.description}
        if self.parameters is not None:
            function["parameters"] = self.parameters
        return {"type": "function", "function": function}


TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
YES_NO: Schema = {"type": "boolean"}


def _closed(required: list[str], **properties: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _open(required: list[str], **properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": required}


def _about(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _list(items: Any, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def _nested(levels: int) -> Schema:
    inner: Schema = _closed(["value"], value=WHOLE)
    for level in range(levels):
        inner = _closed([f"level{level}"], **{f"level{level}": inner})
    return inner


ADDRESS = _closed(["street", "city"], street=TEXT, city=TEXT, postcode=TEXT)

GRAMMAR_HOLDS = [
    Shape(
        "get_weather",
        "Weather of a city.",
        _closed(
            ["city"],
            city=_about(TEXT, "name of the city"),
            units={"type": "string", "enum": ["celsius", "fahrenheit"]},
            days={"type": "integer", "minimum": 1, "maximum": 7},
        ),
        "What will the weather be in Lisbon for the next three days, in celsius?",
        "rewritten",
        {"city": "Lisbon", "units": "celsius", "days": 3},
    ),
    Shape(
        "send_email",
        "Send an e-mail.",
        _closed(["to", "subject", "body"], to=TEXT, subject=TEXT, body=TEXT, urgent=YES_NO),
        "Write to ana@example.org, subject Lunch, and ask whether noon is fine; it is urgent.",
        "rewritten",
        {"to": "ana@example.org", "subject": "Lunch", "body": "Is noon fine?\nBo", "urgent": True},
    ),
    Shape(
        "set_volume",
        "Set the loudness in percent.",
        _closed(["percent"], percent={"type": "integer", "minimum": 0, "maximum": 100}),
        "Turn the volume to 35 percent.",
        "accepted",
        {"percent": 35},
    ),
    Shape(
        "move_to",
        "Go to a position.",
        _closed(
            ["latitude", "longitude"],
            latitude={"type": "number", "minimum": -90, "maximum": 90},
            longitude={"type": "number", "minimum": -180, "maximum": 180},
        ),
        "Move to latitude 48.85 and longitude 2.35.",
        "accepted",
        {"latitude": 48.85, "longitude": 2.35},
    ),
    Shape(
        "set_probability",
        "Set a share strictly between nothing and everything.",
        _closed(["p"], p={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        "Set the probability to a quarter.",
        "accepted",
        {"p": 0.25},
    ),
    Shape(
        "set_floor",
        "Choose a floor above the cellar and below the roof.",
        _closed(
            ["floor"], floor={"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 50}
        ),
        "Take me to the twelfth floor.",
        "accepted",
        {"floor": 12},
    ),
    Shape(
        "assign_ticket",
        "Give a ticket to somebody, or to nobody.",
        _closed(["ticket", "person"], ticket=WHOLE, person={"type": ["string", "null"]}),
        "Take ticket 4711 away from everybody.",
        "rewritten",
        {"ticket": 4711, "person": None},
    ),
    Shape(
        "set_reminder",
        "Remind at a time, or never.",
        _closed(["text"], text=TEXT, minutes={"anyOf": [WHOLE, {"type": "null"}]}),
        "Remind me in 20 minutes to call the bank.",
        "rewritten",
        {"text": "call the bank", "minutes": 20},
    ),
    Shape(
        "set_mode",
        "Switch the mode.",
        _closed(["mode"], mode={"enum": ["off", "eco", "comfort", 1, 2, 3, None]}),
        "Switch the heating to eco.",
        "accepted",
        {"mode": "eco"},
    ),
    Shape(
        "confirm",
        "Confirm with the only word that counts.",
        _closed(["word"], word={"const": "yes"}),
        "I confirm.",
        "accepted",
        {"word": "yes"},
    ),
    Shape("ping", "See whether the service is there.", _closed([]), "Is it alive?", "accepted", {}),
    Shape(
        "create_customer",
        "Create a customer with two addresses.",
        _closed(["name", "billing"], name=TEXT, billing=ADDRESS, shipping=ADDRESS),
        "Create customer Iris Berg, billed at 5 Long Lane in Leeds.",
        "rewritten",
        {"name": "Iris Berg", "billing": {"street": "5 Long Lane", "city": "Leeds"}},
    ),
    Shape(
        "tag_photo",
        "Put up to five tags on a photo.",
        _closed(["photo", "tags"], photo=WHOLE, tags=_list(TEXT, minItems=1, maxItems=5)),
        "Tag photo 12 with beach, sunset and dog.",
        "rewritten",
        {"photo": 12, "tags": ["beach", "sunset", "dog"]},
    ),
    Shape(
        "place_order",
        "Order several articles.",
        _closed(
            ["items"],
            items=_list(
                _closed(
                    ["article", "quantity"],
                    article=TEXT,
                    quantity={"type": "integer", "minimum": 1, "maximum": 99},
                    options=_list(_closed(["key", "value"], key=TEXT, value=TEXT), maxItems=4),
                ),
                minItems=1,
                maxItems=20,
            ),
            gift=YES_NO,
        ),
        "Order two teapots and six cups, the cups in blue, as a gift.",
        "rewritten",
        {
            "items": [
                {"article": "teapot", "quantity": 2},
                {"article": "cup", "quantity": 6, "options": [{"key": "colour", "value": "blue"}]},
            ],
            "gift": True,
        },
    ),
    Shape(
        "search_flights",
        "Search flights; everything but the route is optional.",
        _closed(
            ["origin", "destination"],
            origin={"type": "string", "pattern": "^[A-Z]{3}$"},
            destination={"type": "string", "pattern": "^[A-Z]{3}$"},
        ),
        "Find flights from LIS to OSL.",
        "accepted",
        {"origin": "LIS", "destination": "OSL"},
    ),
    Shape(
        "set_colour",
        "Set a lamp's colour.",
        _closed(["colour"], colour={"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"}),
        "Make the lamp pure red.",
        "accepted",
        {"colour": "#ff0000"},
    ),
    Shape(
        "choose_size",
        "Choose a size; names in other scripts.",
        _closed(["größe", "色"], größe={"enum": ["klein", "groß"]}, 色={"enum": ["赤", "青"]}),
        "Bitte groß und rot.",
        "accepted",
        {"größe": "groß", "色": "赤"},
    ),
    Shape(
        "odd_names",
        "A tool whose argument names hold quotes and blanks.",
        _closed(['the "thing"', "a b"], **{'the "thing"': TEXT, "a b": WHOLE, "x/y": YES_NO}),
        "Set the thing to lamp and a b to 3.",
        "rewritten",
        {'the "thing"': "lamp", "a b": 3},
    ),
    Shape(
        "thirty_options",
        "A form of thirty optional fields.",
        _closed([], **{f"field_{at:02}": (TEXT, WHOLE, YES_NO)[at % 3] for at in range(30)}),
        "Set field_03 to tea and field_29 to true.",
        "rewritten",
        {"field_03": "tea", "field_29": True},
    ),
    Shape(
        "deep_setting",
        "A value eight levels down.",
        _nested(8),
        "Set the deep value to 7.",
        "accepted",
        {
            "level7": {
                "level6": {
                    "level5": {
                        "level4": {"level3": {"level2": {"level1": {"level0": {"value": 7}}}}}
                    }
                }
            }
        },
    ),
    Shape(
        "pay",
        "Pay by card or by transfer.",
        _closed(
            ["how"],
            how={
                "anyOf": [
                    _closed(["card"], card={"type": "string", "pattern": "^[0-9]{16}$"}),
                    _closed(["iban"], iban=TEXT),
                ]
            },
        ),
        "Pay with card 4111111111111111.",
        "rewritten",
        {"how": {"card": "4111111111111111"}},
    ),
    Shape(
        "choose_country",
        "Pick one of many countries.",
        _closed(["code"], code={"enum": [f"{a}{b}" for a in "ABCDEFGHIJ" for b in "KLMNOPQRST"]}),
        "Choose the country AN.",
        "accepted",
        {"code": "AN"},
    ),
    Shape(
        "plot_points",
        "Plot points given as pairs.",
        _closed(
            ["points"],
            points=_list(
                {
                    "type": "array",
                    "prefixItems": [NUMBER, NUMBER],
                    "items": False,
                    "minItems": 2,
                },
                minItems=1,
                maxItems=10,
            ),
        ),
        "Plot the points (1, 2) and (3, 5.5).",
        "accepted",
        {"points": [[1, 2], [3, 5.5]]},
    ),
    Shape(
        "fetch_record",
        "Fetch a record by its UUID.",
        _closed(["id"], id={"type": "string", "format": "uuid"}),
        "Fetch record 123e4567-e89b-12d3-a456-426614174000.",
        "accepted",
        {"id": "123e4567-e89b-12d3-a456-426614174000"},
    ),
]

NEEDS_MORE = [
    Shape(
        "calculate",
        "Work out an arithmetic expression.",
        _open(["expression"], expression=_about(TEXT, "for example 3 * (4 + 5)")),
        "What is 12 times 34?",
        "rewritten",
        {"expression": "12 * 34"},
    ),
    Shape("list_files", "List all files.", None, "Which files are there?", "rewritten", {}),
    Shape(
        "restart",
        "Start the service again; its parameters are an empty schema.",
        {},
        "Restart it, please.",
        "rewritten",
        {},
    ),
    Shape(
        "add_tags",
        "Add any number of tags.",
        _open(["tags"], tags=_list(TEXT)),
        "Tag this with red, round and new.",
        "rewritten",
        {"tags": ["red", "round", "new"]},
    ),
    Shape(
        "comment",
        "Leave a comment of limited length.",
        _closed(["text"], text={"type": "string", "minLength": 1, "maxLength": 280}),
        'Comment: He said "well done".',
        "accepted",
        {"text": 'He said "well done".'},
    ),
    Shape(
        "vote",
        "Vote for different candidates.",
        _closed(["for"], **{"for": {**_list(WHOLE, maxItems=3), "uniqueItems": True}}),
        "Vote for candidates 3, 5 and 8.",
        "accepted",
        {"for": [3, 5, 8]},
    ),
    Shape(
        "set_price",
        "A price in quarters.",
        _closed(["price"], price={"type": "number", "minimum": 0, "multipleOf": 0.25}),
        "Set the price to 3.75.",
        "accepted",
        {"price": 3.75},
    ),
    Shape(
        "book_seats",
        "Seats are sold in pairs.",
        _closed(["seats"], seats={"type": "integer", "minimum": 2, "multipleOf": 2}),
        "Book four seats.",
        "accepted",
        {"seats": 4},
    ),
    Shape(
        "book_room",
        "Book a room between two days.",
        _open(
            ["from", "to"],
            **{
                "from": {"type": "string", "format": "date"},
                "to": {"type": "string", "format": "date"},
                "guest": {"type": "string", "format": "email"},
            },
        ),
        "Book a room from 2 to 5 May 2031 for bo@example.org.",
        "rewritten",
        {"from": "2031-05-02", "to": "2031-05-05", "guest": "bo@example.org"},
    ),
    Shape(
        "schedule",
        "Schedule a meeting.",
        _open(
            ["start"],
            start={"type": "string", "format": "date-time"},
            length={"type": "string", "format": "duration"},
            link={"type": "string", "format": "uri"},
        ),
        "Schedule a meeting on 3 June 2031 at 9 in UTC for one hour.",
        "rewritten",
        {"start": "2031-06-03T09:00:00Z", "length": "PT1H", "link": "https://example.org/m?x=1#y"},
    ),
    Shape(
        "open_port",
        "Open a port for an address.",
        _open(
            ["host", "port"],
            host={"anyOf": [{"type": "string", "format": "ipv4"}, {"format": "hostname"}]},
            port={"type": "integer", "minimum": 1, "maximum": 65535},
        ),
        "Open port 8080 for 10.0.0.7.",
        "rewritten",
        {"host": "10.0.0.7", "port": 8080},
    ),
    Shape(
        "make_tree",
        "Write a tree of named nodes.",
        {
            "type": "object",
            "properties": {"root": {"$ref": "#/$defs/node"}},
            "required": ["root"],
            "$defs": {"node": _open(["name"], name=TEXT, children=_list({"$ref": "#/$defs/node"}))},
        },
        "Make a tree with root a and the children b and c.",
        "rewritten",
        {"root": {"name": "a", "children": [{"name": "b"}, {"name": "c", "children": []}]}},
    ),
    Shape(
        "evaluate",
        "Evaluate an expression tree.",
        {
            "type": "object",
            "properties": {"expression": {"$ref": "#/definitions/expression"}},
            "required": ["expression"],
            "definitions": {
                "expression": {
                    "oneOf": [
                        _open(["value"], value=NUMBER),
                        _open(
                            ["operator", "left", "right"],
                            operator={"enum": ["+", "-", "*"]},
                            left={"$ref": "#/definitions/expression"},
                            right={"$ref": "#/definitions/expression"},
                        ),
                    ]
                }
            },
        },
        "Evaluate 3 plus 4 as a tree.",
        "rewritten",
        {"expression": {"operator": "+", "left": {"value": 3}, "right": {"value": 4}}},
    ),
    Shape(
        "draw",
        "Draw a circle or a box; `kind` says which.",
        _closed(
            ["shape"],
            shape={
                "oneOf": [
                    _open(["kind", "radius"], kind={"const": "circle"}, radius=NUMBER),
                    _open(["kind", "side"], kind={"const": "box"}, side=NUMBER),
                ],
                "discriminator": {"propertyName": "kind"},
            },
        ),
        "Draw a circle of radius 2.",
        "rewritten",
        {"shape": {"kind": "circle", "radius": 2}},
    ),
    Shape(
        "notify",
        "Notify by exactly one of two ways.",
        _open(
            ["target"],
            target={"oneOf": [_open(["phone"], phone=TEXT), _open(["email"], email=TEXT)]},
        ),
        "Notify the phone 555-0100.",
        "rewritten",
        {"target": {"phone": "555-0100"}},
    ),
    Shape(
        "find_user",
        "Find a user by number or by name.",
        _open(["user"], user={"oneOf": [WHOLE, TEXT]}),
        "Find the user number 42.",
        "rewritten",
        {"user": 42},
    ),
    Shape(
        "tuple_of_old",
        "A pair in the older spelling.",
        _open(["pair"], pair={"type": "array", "items": [TEXT, WHOLE], "additionalItems": False}),
        "Set the pair to lamp and 3.",
        "rewritten",
        {"pair": ["lamp", 3]},
    ),
    Shape(
        "set_labels",
        "Labels as a free map of text.",
        _open(["labels"], labels={"type": "object", "additionalProperties": TEXT}),
        "Label it team=blue and stage=test.",
        "rewritten",
        {"labels": {"team": "blue", "stage": "test"}},
    ),
    Shape(
        "log_event",
        "Log an event with any fields.",
        _open(["event"], event=TEXT, fields={"type": "object"}),
        "Log the event login with user 7.",
        "rewritten",
        {"event": "login", "fields": {"user": 7}},
    ),
    Shape(
        "set_headers",
        "Headers whose names follow a pattern.",
        _open(
            ["headers"],
            headers={
                "type": "object",
                "patternProperties": {"^x-[a-z]+$": TEXT},
                "additionalProperties": False,
            },
        ),
        "Set the header x-team to blue.",
        "rewritten",
        {"headers": {"x-team": "blue"}},
    ),
    Shape(
        "set_ranks",
        "A map from lower-case names to numbers, at most five.",
        _open(
            ["ranks"],
            ranks={
                "type": "object",
                "propertyNames": {"pattern": "^[a-z]+$"},
                "additionalProperties": WHOLE,
                "minProperties": 1,
                "maxProperties": 5,
            },
        ),
        "Rank ana first and bo second.",
        "rewritten",
        {"ranks": {"ana": 1, "bo": 2}},
    ),
    Shape(
        "ship",
        "Ship; abroad a customs number is needed.",
        {
            **_open(["country"], country=TEXT, customs=TEXT),
            "if": {"properties": {"country": {"const": "DE"}}},
            "then": {},
            "else": {"required": ["customs"]},
        },
        "Ship it to DE.",
        "rewritten",
        {"country": "DE"},
    ),
    Shape(
        "card_payment",
        "A card number needs its expiry beside it.",
        {
            **_open([], card=TEXT, expiry=TEXT, cash=YES_NO),
            "dependentRequired": {"card": ["expiry"]},
        },
        "Pay with card 4111, expiry 04/31.",
        "rewritten",
        {"card": "4111", "expiry": "04/31"},
    ),
    Shape(
        "rename",
        "Any name but the reserved one.",
        _open(["name"], name={"type": "string", "not": {"enum": ["root", "admin"]}}),
        "Rename it to garden.",
        "rewritten",
        {"name": "garden"},
    ),
    Shape(
        "create_manager",
        "An employee with more, put together from two definitions.",
        {
            "allOf": [
                {"$ref": "#/$defs/person"},
                {"$ref": "#/$defs/employee"},
                {"properties": {"team": _list(TEXT, maxItems=3)}},
            ],
            "$defs": {
                "person": _open(["name"], name=TEXT, age={"type": "integer", "minimum": 0}),
                "employee": _open(["number"], number=WHOLE, age={"maximum": 120}),
            },
        },
        "Create the manager Ute Lang, number 12, aged 44, with Bo in her team.",
        "rewritten",
        {"name": "Ute Lang", "age": 44, "number": 12, "team": ["Bo"]},
    ),
    Shape(
        "pydantic_like",
        "What a typed Python model gives: references, titles, defaults.",
        {
            "$defs": {
                "Priority": {"enum": ["low", "high"], "title": "Priority", "type": "string"},
                "Task": {
                    "properties": {
                        "title": {"title": "Title", "type": "string"},
                        "priority": {
                            "allOf": [{"$ref": "#/$defs/Priority"}],
                            "default": "low",
                            "description": "how soon",
                        },
                        "due": {
                            "anyOf": [{"type": "string"}, {"type": "null"}],
                            "default": None,
                            "title": "Due",
                        },
                    },
                    "required": ["title"],
                    "title": "Task",
                    "type": "object",
                },
            },
            "properties": {
                "tasks": {"items": {"$ref": "#/$defs/Task"}, "title": "Tasks", "type": "array"}
            },
            "required": ["tasks"],
            "title": "Tasks",
            "type": "object",
        },
        "Add the tasks water the plants (high) and read.",
        "rewritten",
        {
            "tasks": [
                {"title": "water the plants", "priority": "high"},
                {"title": "read", "due": None},
            ]
        },
    ),
    Shape(
        "old_bounds",
        "Draft-04 bounds.",
        _open(["x"], x={"type": "number", "minimum": 0, "exclusiveMinimum": True}),
        "Set x to 2.5.",
        "rewritten",
        {"x": 2.5},
    ),
    Shape(
        "no_types",
        "A schema whose author forgot every type.",
        {"properties": {"name": {"pattern": "^[a-z]+$"}, "count": {"minimum": 1}, "any": {}}},
        "Set the name to lamp and the count to 3.",
        "rewritten",
        {"name": "lamp", "count": 3, "any": [1]},
    ),
    Shape(
        "grep",
        "Search with a pattern that is not anchored.",
        _open(["word"], word={"type": "string", "pattern": "[a-z]+@"}),
        "Search for bo@.",
        "rewritten",
        {"word": "bo@"},
    ),
    Shape(
        "set_code",
        "A pattern beside a length.",
        _open(["code"], code={"type": "string", "pattern": "^[A-Z0-9-]+$", "maxLength": 12}),
        "Set the code to AB-12.",
        "rewritten",
        {"code": "AB-12"},
    ),
    Shape(
        "set_path",
        "A path with backslashes.",
        _open(["path"], path={"type": "string", "pattern": "^[A-Z]:\\\\[a-z]+$"}),
        "Set the path to C:\\temp.",
        "rewritten",
        {"path": "C:\\temp"},
    ),
    Shape(
        "big_number",
        "A number beyond 64 bits.",
        _open(["n"], n={"type": "integer", "minimum": 0, "maximum": 10**30}),
        "Set n to 12345.",
        "rewritten",
        {"n": 12345},
    ),
    Shape(
        "half_bounds",
        "Whole numbers between halves.",
        _open(["n"], n={"type": "integer", "minimum": 0.5, "maximum": 9.5}),
        "Set n to 4.",
        "rewritten",
        {"n": 4},
    ),
    Shape(
        "check_list",
        "A list that holds at least one true.",
        _open(["answers"], answers={**_list(YES_NO, maxItems=6), "contains": {"const": True}}),
        "The answers are no, yes and no.",
        "rewritten",
        {"answers": [False, True, False]},
    ),
    Shape(
        "required_only",
        "Names what is required and describes none of it.",
        {"type": "object", "required": ["id"]},
        "Do it for id 5.",
        "rewritten",
        {"id": 5},
    ),
    Shape(
        "sealed",
        "Closed in the newer spelling.",
        {**_open(["a"], a=TEXT, b=TEXT), "unevaluatedProperties": False},
        "Set a to x.",
        "rewritten",
        {"a": "x"},
    ),
    Shape(
        "count_options",
        "Exactly one of three options.",
        {
            **_closed([], small=YES_NO, medium=YES_NO, large=YES_NO),
            "minProperties": 1,
            "maxProperties": 1,
        },
        "The large one, please.",
        "accepted",
        {"large": True},
    ),
]

REFUSED = [
    Shape(
        "set_password",
        "A password with a digit somewhere, said with a look-ahead.",
        _open(["password"], password={"type": "string", "pattern": "^(?=.*[0-9]).{8,}$"}),
        "Set the password to sunshine7.",
        "refused",
        {"password": "sunshine7"},
    ),
    Shape(
        "import_contact",
        "A schema that lives elsewhere.",
        _open(["contact"], contact={"$ref": "https://example.org/contact.json"}),
        "Import Ana.",
        "refused",
        {"contact": {"name": "Ana"}},
    ),
]

SHAPES = [*GRAMMAR_HOLDS, *NEEDS_MORE, *REFUSED]
