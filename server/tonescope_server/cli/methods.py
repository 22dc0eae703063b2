"""``tonescope methods``: which attribution methods there are, with their parameters, and which backward rule sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tonescope.results import MethodInfo, Methods, RuleSetInfo
from tonescope_server.cli.console import out, remark, say, write_json
from tonescope_server.cli.options import MaybeServerOption
from tonescope_server.cli.remote import daemon
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import UnknownMethodError
from tonescope_server.plugin.host import PluginHost


def methods(
    name: Annotated[str, typer.Argument(help="Show this method's parameters.", show_default=False)] = "",
    server: MaybeServerOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, with the parameters as JSON Schema.")] = False,
) -> None:
    """List the attribution methods and the backward rule sets; with a method's name, its parameters.

    Example:  tonescope methods

    Example:  tonescope methods integrated_gradients
    """
    if server:
        with daemon(server) as client:
            listed = client.methods()
    else:
        listed = _installed()
    found = listed.methods
    if name:
        found = tuple(each for each in found if each.name == name) or _unknown(name, found)
    if as_json:
        write_json(found, Path("-"))
    elif name:
        _show_one(found[0])
    else:
        _show_all(listed)
    for method in found:
        if method.quarantined:
            remark(f"method {method.name} of plugin {method.plugin} is quarantined: {method.quarantined}")
    for plugin, why in listed.failures.items():
        remark(f"plugin {plugin} was not loaded: {why}")


def _installed() -> Methods:
    host = installed_plugins()
    found = []
    for name, method in sorted(host.methods.items()):
        origin = host.origin("methods", name)
        found.append(
            MethodInfo(
                name=name,
                summary=method.summary,
                parameters=method.Parameters.model_json_schema(),
                requirement=str(method.requirement),
                source=method.source,
                plugin=origin.plugin,
                version=origin.version,
                complete=method.complete,
            )
        )
    failures: dict[str, str] = {}
    for failure in host.failures:
        failures[failure.plugin] = "; ".join(filter(None, (failures.get(failure.plugin), failure.message)))
    return Methods(tuple(found), failures, tuple(_rule_sets(host)))


def _rule_sets(host: PluginHost) -> Iterator[RuleSetInfo]:
    for name, rules in sorted(host.rule_sets.items()):
        origin = host.origin("rule_sets", name)
        yield RuleSetInfo(
            name, rules.summary, rules.source, origin.plugin, origin.version, rules.reference, rules.relevance
        )


def _unknown(name: str, found: tuple[MethodInfo, ...]) -> tuple[MethodInfo, ...]:
    raise UnknownMethodError(f"no method named {name!r}; there are {', '.join(each.name for each in found)}")


def _show_all(listed: Methods) -> None:
    table = Table("method", "needs", "parameters", "what it is", box=None)
    for method in listed.methods:
        names = ", ".join(method.parameters.get("properties", {})) or "—"
        table.add_row(method.name, method.requirement, names, method.summary)
    out.print(table)
    out.print()
    table = Table("rule set", "plugin", "what flows back", "what it is", box=None)
    for rules in listed.rule_sets:
        flows = "relevance" if rules.relevance else "multipliers" if rules.reference else "gradient"
        table.add_row(rules.name, rules.plugin, flows, rules.summary)
    out.print(table)


def _show_one(method: MethodInfo) -> None:
    say(f"{method.name}: {method.summary}")
    say(f"needs {method.requirement}; plugin {method.plugin} {method.version}")
    if method.source:
        say(f"source: {method.source}")
    table = Table("parameter", "type", "default", "what it is", box=None)
    definitions = method.parameters.get("$defs", {})
    for name, schema in method.parameters.get("properties", {}).items():
        table.add_row(
            name, type_text(schema, definitions), str(schema.get("default", "")), schema.get("description", "")
        )
    if table.row_count:
        out.print(table)


def type_text(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Say in short what a JSON Schema allows: choices, or a type with its bounds."""
    if "$ref" in schema:
        schema = definitions.get(schema["$ref"].rsplit("/", 1)[-1], {})
    if "anyOf" in schema:
        return " or ".join(type_text(each, definitions) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(str(each) for each in schema["enum"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {schema[key]}" for key, sign in bounds.items() if key in schema]
    return " ".join([str(schema.get("type", schema.get("const", "any"))), *said])
