"""Validate custom resources against their definition, more strictly than the API server does.

An API server silently drops fields that the schema does not know; here they are mistakes, since a
dropped field is most often a misspelt one. Run it by scripts/check-k8s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

MANIFESTS = Path(__file__).resolve().parents[1] / "configs" / "k8s"


def strict(schema: Any) -> Any:
    """A JSON schema from a structural one: unknown fields refused, int-or-string understood."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: strict(value) for name, value in part.items()}
        if key == "properties"
        else strict(part)
        for key, part in schema.items()
    }
    if made.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    known = "properties" in made and "additionalProperties" not in made
    if known and not made.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


def schema_of(definition: dict[str, Any], version: str) -> dict[str, Any]:
    """The strict schema of one served version; raises SystemExit with the versions there are."""
    versions = {v["name"]: v for v in definition["spec"]["versions"] if v["served"]}
    if version not in versions:
        raise SystemExit(f"the definition has no version {version!r}; it has {sorted(versions)}")
    schema: dict[str, Any] = strict(versions[version]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own, not the schema's
    return schema


def mistakes(definition: dict[str, Any], resource: dict[str, Any]) -> Iterator[str]:
    """One line for each thing in `resource` that the definition does not allow."""
    group, _, version = resource["apiVersion"].partition("/")
    if group != (wanted := definition["spec"]["group"]):
        yield f"apiVersion: {group!r} is not the definition's group, {wanted!r}"
        return
    validator = Draft202012Validator(schema_of(definition, version))
    for error in sorted(validator.iter_errors(resource), key=lambda e: list(map(str, e.path))):
        yield f"{'.'.join(map(str, error.path))}: {error.message[:300]}"


def main(args: list[str]) -> int:
    if not args:
        raise SystemExit("usage: scripts/check-k8s ray.io_rayservices.yaml [MANIFEST...]")
    definition = yaml.safe_load(Path(args[0]).read_text())
    kind = definition["spec"]["names"]["kind"]
    checked = bad = 0
    for path in [Path(arg) for arg in args[1:]] or sorted(MANIFESTS.glob("*.yaml")):
        for resource in yaml.safe_load_all(path.read_text()):
            if not isinstance(resource, dict) or resource.get("kind") != kind:
                continue
            checked += 1
            for mistake in mistakes(definition, resource):
                bad += 1
                print(f"{path}: {mistake}")
    if not checked:
        print(f"no {kind} found")
        return 1
    print(f"{checked} {kind} checked, {bad} mistakes")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
