"""JSON against a JSON Schema: the keywords that docs/submission_schema.json uses, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int, "number": (int, float)}
KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "type", "enum", "const", "pattern", "minimum", "maximum",
    "minLength", "maxLength", "minItems", "maxItems", "items", "properties", "required", "additionalProperties",
}  # fmt: skip


def is_type(value: object, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))


def violations(value: object, schema: dict, root: dict | None = None, at: str = "") -> Iterator[tuple[str, str, str]]:
    """(where, found, allowed) for every place that does not fit. Raises ValueError for a keyword it does not know."""
    root = schema if root is None else root
    if unknown := schema.keys() - KNOWN:
        raise ValueError(f"the schema uses {sorted(unknown)}, which this validator does not know")
    if "$ref" in schema:
        yield from violations(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
        return
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    where = at or "(the whole)"
    if not any(is_type(value, kind) for kind in kinds):
        yield where, repr(value), " or ".join(kinds)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield where, repr(value), f"one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield where, repr(value), repr(schema["const"])
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield where, repr(value), f"text that fits {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield where, f"{len(value)} characters", f"{schema.get('minLength', 0)} to {schema.get('maxLength', 'any number')}"
    if is_type(value, "number") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield where, repr(value), f"{schema.get('minimum', 'anything')} to {schema.get('maximum', 'anything')}"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield where, f"{len(value)} items", f"{schema.get('minItems', 0)} to {schema.get('maxItems', 'any number')}"
        for i, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), root, f"{at}[{i}]")
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key in schema.get("required", []):
            if key not in value:
                yield where, f"no key {key}", f"{key} is required"
        for key, item in value.items():
            name = f"{at}.{key}" if at else key
            if key in properties:
                yield from violations(item, properties[key], root, name)
            elif others is False:
                yield name, "an unknown key", f"only {', '.join(properties)}"
            elif isinstance(others, dict):
                yield from violations(item, others, root, name)
