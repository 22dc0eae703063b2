"""``MethodService``: the attribution methods, the rule sets, and the plugins that could not be loaded."""

from __future__ import annotations

import json
from typing import Any

from tonescope.v1 import method_service_pb2 as service_pb2
from tonescope.v1 import method_service_pb2_grpc as service_grpc
from tonescope_server.gradients.rule_set import RuleSet
from tonescope_server.plugin.api import Method, Requirement
from tonescope_server.plugin.host import PluginHost

_REQUIREMENTS = {
    Requirement.PREDICTIONS: service_pb2.REQUIREMENT_PREDICTIONS,
    Requirement.GRADIENTS: service_pb2.REQUIREMENT_GRADIENTS,
    Requirement.LAYER: service_pb2.REQUIREMENT_LAYER,
    Requirement.ATTENTION: service_pb2.REQUIREMENT_ATTENTION,
}


class MethodService(service_grpc.MethodServiceServicer):
    """The attribution methods of the daemon. They do not change while it runs, but for those that are quarantined."""

    def __init__(self, host: PluginHost) -> None:
        self._quarantined = host.conduct.quarantined
        methods = [_method_of(host, host.methods[name]) for name in sorted(host.methods)]
        failures = [service_pb2.PluginFailure(plugin=f.plugin, message=f.message) for f in host.failures]
        rule_sets = [_rule_set_of(host, host.rule_sets[name]) for name in sorted(host.rule_sets)]
        self._answer = service_pb2.ListMethodsResponse(methods=methods, failures=failures, rule_sets=rule_sets)

    async def ListMethods(  # noqa: N802  the contract's name
        self,
        request: service_pb2.ListMethodsRequest,
        context: Any,
    ) -> service_pb2.ListMethodsResponse:
        """List the methods, the rule sets, and the plugins that failed to load."""
        if not self._quarantined:
            return self._answer
        answer = service_pb2.ListMethodsResponse()
        answer.CopyFrom(self._answer)
        for method in answer.methods:
            method.quarantined = self._quarantined.get(method.name, "")
        return answer


def _method_of(host: PluginHost, method: Method) -> service_pb2.Method:
    origin = host.origin("methods", method.name)
    return service_pb2.Method(
        name=method.name,
        summary=method.summary,
        parameters_json_schema=json.dumps(method.Parameters.model_json_schema()),
        requirement=_REQUIREMENTS[method.requirement],
        source=method.source,
        plugin=origin.plugin,
        version=origin.version,
        complete=method.complete,
    )


def _rule_set_of(host: PluginHost, rules: RuleSet) -> service_pb2.RuleSet:
    origin = host.origin("rule_sets", rules.name)
    return service_pb2.RuleSet(
        name=rules.name,
        summary=rules.summary,
        source=rules.source,
        plugin=origin.plugin,
        version=origin.version,
        reference=rules.reference,
        relevance=rules.relevance,
    )
