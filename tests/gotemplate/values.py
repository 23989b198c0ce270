"""The data of the tests, for both sides: JSON for the oracle, values of the model for the interpreter."""

from __future__ import annotations

from typing import Any

from migrate.gotemplate import Map, Slice, Struct, Value
from migrate.gotemplate.formatting import sprint


def from_json(data: Any) -> Value:
    """What the oracle's `value` makes of the same JSON."""
    if isinstance(data, list):
        return [from_json(item) for item in data]
    if not isinstance(data, dict):
        return data
    fields = {key: from_json(item) for key, item in data.items() if key != "$type"}
    match data.get("$type"):
        case "Point":
            return Struct("main.Point", {"X": fields.get("X"), "Label": fields.get("Label", "")}, comparable=True)
        case "Named":
            return _named(fields)
        case "Shouts":
            items = [sprint([item], 1000) for item in fields["Items"]]
            return _shouts(items)
        case "Ages":
            return Map(fields, type_name="main.Ages", zero=0)
    return fields


def _named(fields: dict[str, Value]) -> Struct:
    name = fields["Name"]
    items = Slice(fields.get("Items", []), is_nil="Items" not in fields)
    return Struct("main.Named", {"Name": name, "Items": items}, string=lambda: f"<{name}>")


def _shouts(items: list[str]) -> Slice:
    return Slice(items, type_name="main.Shouts", string=lambda: "!".join(items).upper())


def twice(value: Value) -> Value:
    if not isinstance(value, str):
        raise ValueError("wrong type for value; expected string")
    return value + value


def make_list(*values: Value) -> Value:
    return list(values)


FUNCTIONS = {"twice": twice, "list": make_list}
